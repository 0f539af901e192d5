"""Import models from other systems, and export them.

Each system has a table of its recurrent layers, such as `throughtime.exchange.onnx.layers`; torch's is
`throughtime.engines.torch_layers`, because the drop-in layers use it too. A row holds a layer's name and attributes,
the equivalent cell, and a `throughtime.engines.weight_layouts.WeightLayout` that maps the cell's parameters.
"""
