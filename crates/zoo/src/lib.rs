//! AlexNet, VGG, GoogLeNet, ResNet and DenseNet as graphs, with checkpoints
