//! The table of all networks: input, classes, normalisation, and published weights with their accuracy.
use std::sync::LazyLock;

use graph::Preprocess;
use serde::{Deserialize, Serialize};

use crate::{densenet, resnet, resnet_cifar, vgg};

/// The number of classes of the five embedded variants.
const EMBEDDED_CLASSES: usize = 16;
/// The side of the input image of the embedded variants, in pixels.
const EMBEDDED_INPUT: usize = 32;

/// A family of architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Family {
    /// AlexNet (Krizhevsky 2014).
    AlexNet,
    /// VGG (Simonyan and Zisserman 2015).
    Vgg,
    /// GoogLeNet (Szegedy et al. 2015).
    GoogLeNet,
    /// ResNet (He et al. 2016).
    ResNet,
    /// DenseNet (Huang et al. 2017).
    DenseNet,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AlexNet => "AlexNet",
            Self::Vgg => "VGG",
            Self::GoogLeNet => "GoogLeNet",
            Self::ResNet => "ResNet",
            Self::DenseNet => "DenseNet",
        })
    }
}

/// The stem of a network: the layers before its first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Stem {
    /// The stem of the paper, for inputs near 224x224.
    ImageNet,
    /// A stem for inputs of 32x32 to 64x64, with a smaller first kernel and less subsampling; in AlexNet and VGG the
    /// classifier is smaller too. The file of a family gives its geometry.
    Small,
    /// A stem of ResNet for 32x32: a 3x3 kernel of stride 1 and no pooling, as is usual for CIFAR.
    Cifar,
}

impl std::fmt::Display for Stem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ImageNet => "imagenet",
            Self::Small => "small",
            Self::Cifar => "cifar",
        })
    }
}

/// The published weights of a variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pretrained {
    /// The address of the file.
    pub url: String,
    /// The first eight hexadecimal digits of the file's SHA-256, which its publisher writes into the file's name.
    pub sha256_prefix: String,
    /// The whole SHA-256 of the file, where this project has verified it.
    pub sha256: Option<&'static str>,
    /// The SPDX identifier of the publisher's licence.
    pub licence: &'static str,
    /// The published top-1 accuracy in percent, on ImageNet's validation set or CIFAR-10's test set.
    pub top1: f64,
    /// The published top-5 accuracy in percent.
    pub top5: Option<f64>,
}

/// One row of the table: a network with its input and, where they are published, its weights.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Variant {
    /// The name by which [`crate::Config::name`] selects this variant.
    pub name: &'static str,
    /// The family of the network.
    pub family: Family,
    /// The side of the square input image, in pixels.
    pub input: usize,
    /// The number of classes.
    pub classes: usize,
    /// The multiplier of the paper's channel counts.
    pub width: f64,
    /// The layers before the first block.
    pub stem: Stem,
    /// The steps from an image to the network's input.
    pub preprocess: Preprocess,
    /// The published weights, if there are any.
    pub source: Option<Pretrained>,
    #[serde(skip)]
    pub(crate) arch: Arch,
}

impl Variant {
    /// Returns the stems that this variant can have.
    pub(crate) fn stems(&self) -> &'static [Stem] {
        match &self.arch {
            // A CIFAR network has only the stem of its paper.
            Arch::ResNetCifar(_) => &[Stem::Small],
            Arch::DenseNet(column) if column.cifar => &[Stem::Small],
            Arch::ResNet(_) => &[Stem::ImageNet, Stem::Small, Stem::Cifar],
            _ => &[Stem::ImageNet, Stem::Small],
        }
    }
}

/// The builder of a variant, with the layer counts of its paper.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arch {
    AlexNet,
    Vgg(vgg::Column),
    GoogLeNet,
    ResNet(resnet::Column),
    ResNetCifar(usize),
    DenseNet(densenet::Column),
}

impl Arch {
    fn family(&self) -> Family {
        match self {
            Self::AlexNet => Family::AlexNet,
            Self::Vgg(_) => Family::Vgg,
            Self::GoogLeNet => Family::GoogLeNet,
            Self::ResNet(_) | Self::ResNetCifar(_) => Family::ResNet,
            Self::DenseNet(_) => Family::DenseNet,
        }
    }
}

/// Returns the table of all networks of the zoo.
pub fn variants() -> &'static [Variant] {
    static TABLE: LazyLock<Vec<Variant>> = LazyLock::new(|| {
        use Arch::{AlexNet, DenseNet, GoogLeNet, ResNet, ResNetCifar, Vgg};
        let half = Preprocess { mean: vec![0.5; 3], std: vec![0.5; 3], ..Preprocess::imagenet() };
        vec![
            // torchvision's ImageNet networks and its IMAGENET1K_V1 weights.
            imagenet("alexnet", AlexNet, "alexnet-owt-7be5be79.pth", 56.522, 79.066),
            imagenet("vgg11", Vgg(vgg::A), "vgg11-8a719046.pth", 69.020, 88.628),
            imagenet("vgg11_bn", Vgg(vgg::A.bn()), "vgg11_bn-6002323d.pth", 70.370, 89.810),
            imagenet("vgg13", Vgg(vgg::B), "vgg13-19584684.pth", 69.928, 89.246),
            imagenet("vgg13_bn", Vgg(vgg::B.bn()), "vgg13_bn-abd245e5.pth", 71.586, 90.374),
            imagenet("vgg16", Vgg(vgg::D), "vgg16-397923af.pth", 71.592, 90.382),
            imagenet("vgg16_bn", Vgg(vgg::D.bn()), "vgg16_bn-6c64b313.pth", 73.360, 91.516),
            imagenet("vgg19", Vgg(vgg::E), "vgg19-dcbb9e9d.pth", 72.376, 90.876),
            imagenet("vgg19_bn", Vgg(vgg::E.bn()), "vgg19_bn-c79401a0.pth", 74.218, 91.842),
            // GoogLeNet was trained with mean 0.5 and deviation 0.5: see `Config::transform_input`.
            Variant { preprocess: half, ..imagenet("googlenet", GoogLeNet, "googlenet-1378be20.pth", 69.778, 89.530) },
            imagenet("resnet18", ResNet(resnet::RESNET18), "resnet18-f37072fd.pth", 69.758, 89.078),
            imagenet("resnet34", ResNet(resnet::RESNET34), "resnet34-b627a593.pth", 73.314, 91.420),
            imagenet("resnet50", ResNet(resnet::RESNET50), "resnet50-0676ba61.pth", 76.130, 92.862),
            imagenet("resnet101", ResNet(resnet::RESNET101), "resnet101-63fe2227.pth", 77.374, 93.546),
            imagenet("resnet152", ResNet(resnet::RESNET152), "resnet152-394f9c45.pth", 78.312, 94.046),
            imagenet("densenet121", DenseNet(densenet::DENSENET121), "densenet121-a639ec97.pth", 74.434, 91.972),
            imagenet("densenet161", DenseNet(densenet::DENSENET161), "densenet161-8d451a50.pth", 77.138, 93.560),
            imagenet("densenet169", DenseNet(densenet::DENSENET169), "densenet169-b2777c0a.pth", 75.600, 92.806),
            imagenet("densenet201", DenseNet(densenet::DENSENET201), "densenet201-c1103571.pth", 76.896, 93.370),
            // CIFAR-10 networks for 32x32, with the weights of github.com/akamaster/pytorch_resnet_cifar10.
            cifar(
                "resnet20",
                ResNetCifar(resnet_cifar::RESNET20),
                Some(("resnet20-12fca82f.th", RESNET20_SHA256, 91.73)),
            ),
            cifar("resnet32", ResNetCifar(resnet_cifar::RESNET32), Some(("resnet32-d509ac18.th", None, 92.63))),
            cifar("resnet44", ResNetCifar(resnet_cifar::RESNET44), Some(("resnet44-014dd654.th", None, 93.10))),
            cifar(
                "resnet56",
                ResNetCifar(resnet_cifar::RESNET56),
                Some(("resnet56-4bfd9763.th", RESNET56_SHA256, 93.39)),
            ),
            cifar("densenet100_bc", DenseNet(densenet::DENSENET100_BC), None),
            // Networks for the embedded image set: 32x32, small enough to train and distill on a CPU.
            embedded("alexnet-embedded", AlexNet),
            embedded("vgg-embedded", Vgg(vgg::A.bn())),
            embedded("googlenet-embedded", GoogLeNet),
            embedded("resnet50-embedded", ResNet(resnet::RESNET50)),
            Variant { width: 1.0, ..embedded("densenet-embedded", DenseNet(densenet::EMBEDDED)) },
        ]
    });
    &TABLE
}

const RESNET20_SHA256: Option<&str> = Some("12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8");
const RESNET56_SHA256: Option<&str> = Some("4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367");

fn imagenet(name: &'static str, arch: Arch, file: &'static str, top1: f64, top5: f64) -> Variant {
    Variant {
        name,
        family: arch.family(),
        input: 224,
        classes: 1000,
        width: 1.0,
        stem: Stem::ImageNet,
        preprocess: Preprocess::imagenet(),
        source: Some(Pretrained {
            url: format!("https://download.pytorch.org/models/{file}"),
            sha256_prefix: sha256_prefix(file),
            sha256: None,
            licence: "BSD-3-Clause",
            top1,
            top5: Some(top5),
        }),
        arch,
    }
}

fn cifar(name: &'static str, arch: Arch, source: Option<(&str, Option<&'static str>, f64)>) -> Variant {
    Variant {
        name,
        family: arch.family(),
        input: 32,
        classes: 10,
        width: 1.0,
        stem: Stem::Small,
        preprocess: Preprocess::imagenet_statistics(),
        source: source.map(|(file, sha256, top1)| Pretrained {
            url: format!("https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{file}"),
            sha256_prefix: sha256_prefix(file),
            sha256,
            licence: "BSD-2-Clause",
            top1,
            top5: None,
        }),
        arch,
    }
}

fn embedded(name: &'static str, arch: Arch) -> Variant {
    Variant {
        name,
        family: arch.family(),
        input: EMBEDDED_INPUT,
        classes: EMBEDDED_CLASSES,
        width: 0.25,
        stem: Stem::Small,
        preprocess: Preprocess::imagenet_statistics(),
        source: None,
        arch,
    }
}

/// Returns `0676ba61` for the file name `resnet50-0676ba61.pth`.
fn sha256_prefix(file: &str) -> String {
    file.rsplit_once('-').and_then(|(_, rest)| rest.split_once('.')).map_or("", |(prefix, _)| prefix).to_owned()
}
