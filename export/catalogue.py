"""Names that command lines offer, spelled where nothing heavy is loaded; tests hold them to the registries."""

COMPRESSIONS = ("int8", "float16")  # export.compress.COMPRESSIONS
