.DEFAULT_GOAL := check
.PHONY: check fmt proto lock envoy-examples

bin := .venv/bin
compile := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

check: ## everything CI runs
	scripts/test

fmt: ## format the code, and mend what can be mended by itself
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

proto: ## generate meshca/proto from proto/
	scripts/gen-proto

lock: ## pin dependencies and their hashes anew, from pyproject.toml; needs uv. `make lock upgrade=1` takes the newest
	$(compile) $(if $(upgrade),--upgrade) requirements/build.in -o requirements/build.lock
	$(compile) $(if $(upgrade),--upgrade) pyproject.toml --extra demo -o requirements/runtime.lock
	$(compile) $(if $(upgrade),--upgrade) pyproject.toml --extra demo --group dev -o requirements/dev.lock

envoy-examples: ## print deploy/envoy anew, with the commands of its README
	$(bin)/python -m tests.deploy.examples
