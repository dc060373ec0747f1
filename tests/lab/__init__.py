# SPDX-License-Identifier: Apache-2.0
"""
The lab: a one-node Ceph, libvirt guests with throttled rbd disks, and workloads whose requests are known.

``with Lab.up(root) as lab`` (tests.lab.lab) is where to begin; see README.md.  Nothing is imported here, so that
pytest can look for the lab's fixture on a machine that has no libvirt.
"""
