# Thin aliases: `python3 make.py TARGET` is the portable form, and works on Windows.
TARGETS = book pages chinese test lab paper notebooks assignments slides bench fuzz stress teachers \
  lint types setup clean
PYTHON ?= python3

.PHONY: help score $(TARGETS)
help:
	@$(PYTHON) make.py

score: # make score FILE=entry.packed
	@$(PYTHON) make.py score $(FILE)

$(TARGETS):
	@$(PYTHON) make.py $@
