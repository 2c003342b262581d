# The test machine: a Debian kernel with IPVS under QEMU (included by the Makefile).
#
#   make vm CMD='ipvsadm -Ln'      run any command on it, as root, in this directory
#   make vm VMFLAGS=--icount CMD=...   virtual time that counts instructions

VM = /usr/bin/python3 tests/vm/machine.py --cpus 2 --timeout 1200 $(VMFLAGS)
export CMD

.PHONY: vm
vm:
	@test -n "$$CMD" || { echo "say what to run: make vm CMD='uname -a'"; exit 2; }
	@$(VM) -- sh -c "$$CMD"

# Only the tests that need IPVS; `make test` runs them with all others.
.PHONY: vm-test
vm-test:
	$(ROOT) $(PY) -m pytest -m 'ipvs and not long' $(ARGS)
