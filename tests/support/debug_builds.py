# SPDX-License-Identifier: Apache-2.0
"""A small program with QEMU's structs, built with debug information."""

import subprocess
from pathlib import Path

FILE = "hw/scsi/scsi-bus.c"


SOURCE = """
typedef unsigned int uint32_t;
typedef struct SCSICommand {{ unsigned char buf[16]; int len; unsigned long xfer, lba; int mode; }} SCSICommand;
typedef const SCSICommand Renamed;
typedef struct SCSIRequest SCSIRequest;
struct SCSIRequest {{
    void *bus, *dev, *ops; {more} uint32_t refcount, tag, lun; short status, host_status; void *hba_private;
    unsigned long residual; Renamed cmd; void *notifiers; unsigned char sense[252];
}};
uint32_t scsi_req_enqueue(SCSIRequest *req) {{ return req->tag; }}
int main(int argc, char **argv) {{ return scsi_req_enqueue((SCSIRequest *)argv); }}
"""


def built(folder: Path, text: str, *options: str, compiler: str = "gcc", file: str = FILE) -> Path:
    """A program, its source under the name that QEMU or librbd has it by."""
    source, program = folder / file, folder / "program"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    subprocess.run(
        [compiler, "-O1", "-w", *options, f"../{folder.name}/{file}", "-o", program],
        cwd=folder,
        check=True,
        timeout=300,
    )
    return program
