"""Names that command lines offer, spelled where nothing heavy is loaded; tests hold them to the registries."""

CAM_METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam")  # export.graph.fused_maps.METHODS
COMPRESSIONS = ("int8", "float16")  # export.compress.COMPRESSIONS
