# Thin aliases: `python3 make.py TARGET` is the portable form, and works on Windows.
# `make score FILE=…` hands its file over.
TARGETS = book test lab notebooks bench fuzz score stress teachers lint types setup clean
PYTHON ?= python3

.PHONY: help $(TARGETS)
help:
	@$(PYTHON) make.py

$(TARGETS):
	@$(PYTHON) make.py $@ $(FILE)
