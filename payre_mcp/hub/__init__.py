"""Pages and services over HTTP. Today: the page behind a top-up link, and the start page of `payre dev`."""
