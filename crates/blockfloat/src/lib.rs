//! The numbers of DSConv: block-scaled integer codes, block floating point, packing, reference convolution
