"""What to run, and within what, from the options of a command and what a bundle says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from flexnn_ncnn.cli.feed import Feed
from flexnn_ncnn.cli.options import ModelFiles
from flexnn_ncnn.cli.progress import ProgressBars
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.reporters.escape import printable

if TYPE_CHECKING:
    from flexnn_ncnn.preparing.preparation import Request

__all__ = ["make_request"]


def make_request(
    files: ModelFiles,
    feed: Feed,
    budget_bytes: int | None,
    threads: int | None,
    bars: ProgressBars,
    *,
    quiet: bool,
    page_cache: str = "mmap",
) -> Request:
    """The request; of a bundle the plan is brought into the cache, or it is said why it cannot be.

    Args:
        files: the model.
        feed: what it is fed.
        budget_bytes: None where nobody gave a budget.
        threads: None where nobody gave a number.
        bars: shows progress.
        quiet: whether to say nothing on stderr.
        page_cache: a name in `flexnn_ncnn.records.storage.PAGE_CACHES`.

    Raises:
        UsageError: no budget, and no bundle that has one.
    """
    from flexnn_ncnn.preparing.preparation import Request
    from flexnn_ncnn.records.options import RunOptions

    if files.bundle is None:
        if budget_bytes is None:
            raise UsageError("nothing says how much memory may be used", hint="give --budget, such as --budget 64MB")
        options = RunOptions(num_threads=threads or 1)
        return Request(files.param_path, files.bin_path, budget_bytes, options, page_cache=page_cache)
    from flexnn_ncnn.bundles.adoption import adopt_plan, bundle_request

    request = bundle_request(files.bundle, budget_bytes, threads)
    if page_cache != request.page_cache:  # its plan is another one
        return replace(request, page_cache=page_cache)
    reason = adopt_plan(files.bundle, request, feed.arrays, bars.update)
    if reason and not quiet:
        click.echo(f"flexnn: the bundle is measured again on this machine: {printable(reason)}", err=True)
    return request
