//! DSConv as burn modules, with straight-through quantization
