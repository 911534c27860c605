//! Trains teachers and adapts quantized students on unlabelled images
