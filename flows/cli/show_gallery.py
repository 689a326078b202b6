"""What `grayline gallery` prints when it is done."""

from rich.console import Console

from tasks.report.gallery_page import GalleryPage

console = Console(highlight=False, soft_wrap=True, markup=False)


def show_gallery(page: GalleryPage) -> None:
    """How much of the batch is on the page, and what to do with it."""
    unseen = f"; {page.unseen:,} have no picture" if page.unseen else ""
    console.print(f"{page.batch}: {page.shown:,} of {page.files:,} files, {page.size / 1e6:,.1f} MB{unseen}")
    console.print(f"{page.path} (then name what you export from it as `corrections:` in the data set file)")
