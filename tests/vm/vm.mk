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

# The tests that need a kernel with IPVS: one boot for all, none where this kernel has it.
.PHONY: vm-test
vm-test:
	@$(VM) --unless-ipvs -- .venv/bin/python -m pytest -p no:cacheprovider tests/vm
