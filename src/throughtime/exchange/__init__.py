"""Models in and out of other systems.

For each system there is a table of its recurrent layers: `throughtime.engines.torch_layers` for torch, as the drop-in
layers need it too, and `throughtime.exchange.onnx.layers`. Their rows are alike: a layer's name and attributes, the
cell that it runs, and a `throughtime.engines.weight_layouts.WeightLayout` that says where it has the cell's parameters.
"""
