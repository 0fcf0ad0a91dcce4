"""The images on disk: `store` pulls and prunes, `files` keeps records and layers, `layout` reads archives."""
