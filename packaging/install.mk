# SPDX-License-Identifier: Apache-2.0
# Installing, by hand or for packages; included by the top Makefile.
# PREFIX: programs, man pages, completion. What the units and the tools name by
# path, and what the system looks for in fixed places, does not follow it.
DESTDIR ?=
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
LIBEXECDIR := /usr/libexec/fastoci
UNITDIR ?= /lib/systemd/system
TMPFILESDIR ?= /usr/lib/tmpfiles.d
MODULESLOADDIR ?= /usr/lib/modules-load.d
DKMSDIR := /usr/src/fastoci-$(FASTOCI_VERSION)

DAEMONS := fastoci-helperd fastoci-fetcherd fastoci-decoderd
UNITS := helper/broker/fastoci-helperd.service tools/fastoci/fastoci-restore.service \
	tools/convertor/fastoci-convertor.service tools/snapshotter/fastoci-snapshotter.service
# What each package has, and nothing else is installed; debian/*.install and packaging/rpm take it from here (make list-PACKAGE).
FILES_fastoci = $(BINDIR)/fastoci $(BINDIR)/convertor $(DAEMONS:%=$(LIBEXECDIR)/%) $(LIBEXECDIR)/leave-node \
	$(addprefix $(UNITDIR)/,$(notdir $(filter-out %-snapshotter.service,$(UNITS)))) \
	$(TMPFILESDIR)/fastoci.conf $(MODULESLOADDIR)/fastoci.conf $(COMPLETIONDIR)/fastoci \
	$(addprefix $(MANDIR)/,man1/fastoci.1 man1/convertor.1 man5/fastoci-config.json.5 man5/convertor-serve.json.5 man8/fastoci-helperd.8)
FILES_fastoci-snapshotter = $(BINDIR)/fastoci-snapshotter $(UNITDIR)/fastoci-snapshotter.service \
	$(COMPLETIONDIR)/fastoci-snapshotter $(MANDIR)/man8/fastoci-snapshotter.8
CONFIG_fastoci-snapshotter = /etc/fastoci/snapshotter.json
INSTALLED = $(FILES_fastoci) $(FILES_fastoci-snapshotter)
# What the module is built from; not its tests.
DKMS_FILES := kmod/Kbuild $(wildcard kmod/*.c kmod/*.h) $(wildcard include/uapi/*.h)

.PHONY: install uninstall list-fastoci list-fastoci-snapshotter dkms-source dkms-install dkms-uninstall deb rpm
## make install uninstall   programs, units, man pages; DESTDIR, PREFIX (/usr/local)
install: helper tools
	install -d $(addprefix $(DESTDIR),$(sort $(dir $(INSTALLED))))
	install -m 755 bin/fastoci bin/convertor bin/fastoci-snapshotter $(DESTDIR)$(BINDIR)/
	install -m 755 $(DAEMONS:%=bin/%) packaging/leave-node $(DESTDIR)$(LIBEXECDIR)/
	install -m 644 tools/fastoci/fastoci.1 tools/convertor/convertor.1 $(DESTDIR)$(MANDIR)/man1/
	install -m 644 helper/config/fastoci-config.json.5 tools/convertor/convertor-serve.json.5 $(DESTDIR)$(MANDIR)/man5/
	install -m 644 helper/broker/fastoci-helperd.8 tools/snapshotter/fastoci-snapshotter.8 $(DESTDIR)$(MANDIR)/man8/
	for unit in $(UNITS); do \
		sed 's#/usr/bin/\(fastoci\|convertor\)#$(BINDIR)/\1#' $$unit > $(DESTDIR)$(UNITDIR)/$${unit##*/} || exit 1; done
	install -m 644 packaging/tmpfiles.conf $(DESTDIR)$(TMPFILESDIR)/fastoci.conf
	install -m 644 packaging/modules-load.conf $(DESTDIR)$(MODULESLOADDIR)/fastoci.conf
	install -m 644 tools/fastoci/completion.bash $(DESTDIR)$(COMPLETIONDIR)/fastoci
	install -m 644 tools/snapshotter/completion.bash $(DESTDIR)$(COMPLETIONDIR)/fastoci-snapshotter
	[ -e $(DESTDIR)/etc/fastoci/snapshotter.json ] || install -D -m 644 packaging/snapshotter.json $(DESTDIR)/etc/fastoci/snapshotter.json
# Without the first slash.
list-fastoci list-fastoci-snapshotter: list-%:
	@printf '%s\n' $(patsubst /%,%,$(FILES_$*) $(CONFIG_$*))
uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	[ ! -d $(DESTDIR)$(LIBEXECDIR) ] || rmdir $(DESTDIR)$(LIBEXECDIR)

## make dkms-install dkms-uninstall   the module, by DKMS, for the kernels in KVERS
dkms-source:
	install -d $(addprefix $(DESTDIR)$(DKMSDIR)/,$(sort $(dir $(DKMS_FILES))))
	for file in $(DKMS_FILES); do install -m 644 $$file $(DESTDIR)$(DKMSDIR)/$$file || exit 1; done
	install -m 644 dkms.conf $(DESTDIR)$(DKMSDIR)/
dkms-install: dkms-source
	dkms status fastoci/$(FASTOCI_VERSION) | grep -q . || dkms add fastoci/$(FASTOCI_VERSION)
	@set -ex; for k in $(KVERS); do dkms install fastoci/$(FASTOCI_VERSION) -k $$k; done
dkms-uninstall:
	dkms remove fastoci/$(FASTOCI_VERSION) --all || true
	rm -rf $(DESTDIR)$(DKMSDIR)

## make deb   Debian packages in build/deb/
deb: helper tools
	packaging/mkdeb $(OUT)/deb
## make rpm   RPM packages in build/rpm/, also of the module for the kernels in KVERS
rpm: helper tools
	packaging/mkrpm $(OUT)/rpm $(KVERS)
