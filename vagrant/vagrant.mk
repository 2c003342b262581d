# The lab of virtual machines (included by the Makefile); vagrant/README.md says more.
#
#   make box             build the box from Debian packages
#   make vagrant-up      the machines, on a libvirt of their own
#   make vagrant-test    the story, and vagrant/out/report.md
#   make vagrant-down    the host as it was

VAGRANT_BOX := .cache/vagrant/lbctl.box
# What was chosen, word by word: sudo takes no environment along.
CHOICES = $(foreach name,$(filter LBCTL_%,$(.VARIABLES)),$(if \
    $(filter environment command,$(origin $(name))),$(name)='$(value $(name))'))

.PHONY: box vagrant-up vagrant-test vagrant-down
box:
	@$(if $(filter 0,$(shell id -u)),,sudo) vagrant/box/build $(VAGRANT_BOX)

vagrant-up vagrant-test: setup-demo
# It must work where nothing can be installed.
vagrant-down: $(if $(wildcard $(PY)),,setup-demo)
vagrant-up vagrant-test vagrant-down: vagrant-%:
	@$(ROOT) $(CHOICES) $(PY) -m vagrant $*
