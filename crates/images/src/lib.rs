//! Image sets: decode, resize, normalise; labelled and unlabelled; the embedded default
