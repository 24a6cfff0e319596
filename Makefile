# Every command of the project. `.ci/run`, the README and the workflow call these and nothing else.
.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-mesh test-cluster soak chaos scale skew lint fmt bench images crds

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Build everything, start the shop with its mesh on this machine, and tell what the resources do
	cargo build --locked --workspace --bins
	target/debug/demo

test: ## Everything: unit, mesh and cluster; installs or builds what it needs
	tests/run unit mesh cluster

test-unit: ## Pure parts: compiler, wire, policies, CA, the rules of the house; seconds once built
	tests/run unit

test-mesh: ## Whole operators and sidecars over real sockets, meshwright up, and the demo
	tests/run mesh

test-cluster: ## A real Kubernetes on this machine: injection, RBAC, status (root on Debian or Ubuntu)
	tests/run cluster

soak: ## Ten minutes of mixed load with churn, 10 GB each way, and a million records uploaded: nothing fails, nothing grows
	cargo build --locked --workspace --bins
	MESHWRIGHT_SOAK_SECONDS=600 MESHWRIGHT_SOAK_BODY_BYTES=10737418240 \
		cargo test --locked --workspace --test soak -- --nocapture --test-threads 1
	MESHWRIGHT_UPLOAD_BYTES=1073741824 MESHWRIGHT_UPLOAD_RECORD_BYTES=1073 \
		cargo test --locked --workspace --test mesh however_much_is_uploaded -- --nocapture

chaos: ## Minutes of kill -9 and cuts under load for each broker: no event is lost, few come twice, and order is kept
	cargo build --locked --workspace --bins
	MESHWRIGHT_CHAOS_SECONDS=240 \
		cargo test --locked --workspace --test chaos -- --nocapture --test-threads 4

scale: ## How many sidecars one operator carries, from 10 to 10 000, and a sidecar's memory among 2 000 Services
	cargo build --locked --release --bins -p operator -p sidecar
	MESHWRIGHT_SCALE_STREAMS=10,30,100,300,1000,3000,10000 \
		cargo test --locked --release -p tests --test scale -- --nocapture --test-threads 1

skew: ## Operators and sidecars of this version beside those of the versions before it, under load
	cargo build --locked --workspace --bins
	older=$$(tests/skew/programs) && MESHWRIGHT_OLDER="$$older" cargo test --locked --workspace --test skew -- --nocapture --test-threads 1

lint: ## Formatting, clippy, go vet, a sidecar of each broker alone and of none; warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	for broker in "" nats rabbitmq redis; do \
		cargo clippy --locked -p sidecar --no-default-features --features "$$broker" -- -D warnings || exit 1; \
	done
	cd examples/quickstart/inventory && test -z "$$(gofmt -l .)" && go vet ./...
	cd images && test -z "$$(gofmt -l .)" && go vet ./...
	cd tests/cluster/programs/images && test -z "$$(gofmt -l .)" && go vet ./...
	cd tests/cluster/programs/web && test -z "$$(gofmt -l .)" && go vet ./...

fmt: ## Format everything
	cargo fmt --all
	gofmt -w examples/quickstart/inventory images tests/cluster/programs

bench: ## Cost of a hop, of a mutual-TLS pair, of other protocols and bulk beside Envoy, of an event with each broker, of compiling, of pushing, of finding a rule, of each policy
	cargo build --locked --release --bins -p operator -p sidecar
	cargo bench --locked -p tests --bench hop
	cargo bench --locked -p tests --bench events
	cargo bench --locked -p compiler --bench compile
	cargo bench --locked -p operator --bench push
	cargo bench --locked -p sidecar --bench routes
	cargo bench --locked -p sidecar --bench policies

images: ## Static binaries and their images, as OCI archives in target/images; ARCH=all for both architectures
	images/build

crds: ## Write crds/*.yaml, the chart's copy and docs/reference.md from the Rust types
	cargo run --locked -q -p crds --bin crdgen
