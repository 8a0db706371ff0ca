"""What a program needs before it can start: an image that its node runs, and all its files."""

import asyncio

from fair_server.buckets import Bucket, BucketFile, Buckets
from fair_server.errors import CannotStart
from fair_server.executor import CopiedFile, ProgramSpec, PublishedPort
from fair_server.program_records import labels_of
from fair_server.program_state import Program
from fair_server.wire import OWN_BUCKET, CopyInto

Sources = list[tuple[CopyInto, BucketFile]]


def sources_of(program: Program, buckets: Buckets) -> Sources:
    """Returns the program's copies, each with its file.

    Raises:
        CannotStart: a file is another program's, which has ended.
    """
    return [(copy, _source(copy, program, buckets)) for copy in program.request.copies]


def _source(copy: CopyInto, program: Program, buckets: Buckets) -> BucketFile:
    own = copy.bucket_id == OWN_BUCKET
    bucket: Bucket = program.bucket if own else buckets.get(copy.bucket_id, program.account)
    if bucket.closed:
        raise CannotStart(f"The files of bucket {bucket.id} are gone: its program has ended.")
    return bucket.file(copy.remote_key)


async def until_uploaded(program: Program, sources: Sources, wait_s: float) -> None:
    """Returns when all files are whole. They may take any time as long as something comes.

    `wait_s`: how long nothing of them may come: their client has gone then.
    Raises:
        CannotStart: they did not come.
    """
    put_at = asyncio.get_running_loop().time()
    while missing := [(copy, file) for copy, file in sources if not file.ended]:
        try:
            async with asyncio.timeout_at(put_at + wait_s):
                await missing[0][1].until_ended()
        except TimeoutError as exc:
            last_put_at = max(file.put_at for _, file in sources)
            if last_put_at <= put_at:
                keys = ", ".join(copy.remote_key for copy, _ in missing)
                raise CannotStart(
                    f"Waited {wait_s:.0f} s for files to be put into bucket {program.bucket.id} and "
                    f"ended; missing: {keys}. Put them, and their eof, right after the program."
                ) from exc
            put_at = last_put_at


def check_image(program: Program) -> None:
    """Raises: CannotStart where its node does not run its image."""
    node, image = program.node, program.request.container.image
    if image not in node.images:
        known = ", ".join(node.images) or "none"
        raise CannotStart(
            f"Node {node.name} does not run the image {image}. Its images are: {known}. "
            "Use one of them, or add it to the server's nodes file."
        )


def spec_of(program: Program, sources: Sources) -> ProgramSpec:
    """Returns what an executor is to run."""
    container = program.request.container
    return ProgramSpec(
        program_id=program.id,
        node=program.node,
        image=container.image,
        command=container.command,
        runtime=container.runtime,
        network=container.host_config.network_mode,
        ports=tuple(PublishedPort(host.port, inside.port) for host, inside in container.ports),
        files=tuple(CopiedFile(copy.local_path, file.path) for copy, file in sources),
        labels=labels_of(program),
    )
