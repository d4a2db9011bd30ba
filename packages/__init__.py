"""Debian packages, the apt repository and the offline bundle, of what is committed.

Flows in: a commit, the wheels that requirements/ names by hash, `packages/NAME/` for each package. Flows out: .deb
files, the same bytes for the same commit. Only the standard library, packaging, git, pip,
dpkg-deb and apt-ftparchive are needed.

How a package is described: docs/packages.md.
"""
