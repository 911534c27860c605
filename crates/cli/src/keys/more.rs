//! What a line about a key leaves out: what its values do, and when to change it.

/// A key with what there is to say of it.
type Said = (&'static str, &'static str);

/// Returns what there is to say of a key; a key of both commands' configs means the same in both.
pub fn more(name: &str) -> Option<&'static str> {
    [IMAGE, DISTILL, TRAIN].into_iter().flatten().find(|(key, _)| *key == name).map(|&(_, text)| text)
}

const IMAGE: &[Said] = &[
    (
        "image.input",
        "Only a network whose file leaves height and width open needs it, such as an ONNX file with a free axis.",
    ),
    (
        "image.resize",
        "With one number the shorter side gets so many pixels and the picture keeps its shape; `none` takes pictures as they are. What a file or the zoo says of its network holds where this is missing.",
    ),
    (
        "image.crop",
        "Without it the whole resized picture is the input. ImageNet's usual pair is `resize = 256` and `crop = 224`.",
    ),
    (
        "image.order",
        "Networks from Caffe want `bgr`. `grey` is for networks with one input channel; colours become grey as Pillow's `convert(\"L\")` has it.",
    ),
    (
        "image.divide",
        "255 makes pixels 0 to 1, as torchvision does; networks from Caffe want 1. What comes out has `mean` subtracted and is divided by `std`.",
    ),
    (
        "image.mean",
        "In the units after `divide`. A wrong one costs accuracy without any error: `dsconv eval` on the float network shows it.",
    ),
    ("image.std", "In the units after `divide`. 1 leaves values as they are."),
];

const DISTILL: &[Said] = &[
    (
        "model",
        "A name, an ONNX file, a checkpoint, a file that dsconv wrote, or a run folder whose result is taught on. It must be a float network.",
    ),
    (
        "weights",
        "Parameters for a named network: a `.pth`, a `.safetensors`. Missing and unknown names are errors that say which.",
    ),
    (
        "classes",
        "One name a line, in the order of the outputs. They are kept in every file that is written, and `predict` shows them.",
    ),
    (
        "seed",
        "Same seed, config, images and kind of CPU: same result, to the bit. Run three to see how far results spread.",
    ),
    ("device", "`cpu` needs no feature. The others are cargo features, see `dsconv doctor`."),
    (
        "data.adapt",
        "Pictures of the kind that the network will see matter more than their number. Classes that are missing here may lose accuracy.",
    ),
    (
        "data.eval",
        "Never the images adapted to. Folders named like classes, or a `labels.txt`, make it labelled: then accuracy is measured too.",
    ),
    (
        "data.limit",
        "Images are taken evenly over the set, so that no class is left out. A few thousand are enough without labels.",
    ),
    ("data.eval_limit", "With n images a top-1 of 75 % has a standard error of 43 / sqrt(n) points: 1.4 for 1000."),
    (
        "quantize.bits",
        "4 costs a point or less where layers are fitted; 3 and 2 need adaptation. 8 is nearly free of loss.",
    ),
    (
        "quantize.block",
        "Smaller blocks lose less and take more room: 32 costs half a bit a weight, 64 a quarter. The engine is a little faster with 64 and 128. `pixel` shares one scale over all channels.",
    ),
    (
        "quantize.rule",
        "mse searches signs and clipping for the least squared error. l2 and kl are the paper's. balanced makes the errors of a block cancel, for inputs with a positive mean; it is often better where nothing is fitted. Layers that are fitted begin from it.",
    ),
    (
        "quantize.scales",
        "two_level: an integer for each block and a float for each filter; smaller, and faster in the engine together with `activation.block = \"pixel\"`.",
    ),
    (
        "quantize.linear",
        "`false` leaves fully connected layers in floats: in VGG and AlexNet those are most of the file.",
    ),
    (
        "quantize.activation.bits",
        "8 takes no more room in the file, and wins most of what 4 bits lose in MobileNets. `activation = false` leaves inputs in floats, which the integer engine does not run.",
    ),
    (
        "quantize.activation.block",
        "A multiple of `quantize.block`. Larger is faster and loses more; `pixel` shares one scale over all channels of a pixel, `image` over all pixels too, for layers that read the image.",
    ),
    (
        "quantize.activation.scale",
        "pow2: powers of two, the paper's shared exponent. float loses less, since the largest value of a block gets the largest code.",
    ),
    (
        "quantize.image_bits",
        "A pixel has 8 bits as it comes; rounding it to fewer costs more than in any other layer, and saves nothing in the file.",
    ),
    (
        "quantize.image_sum",
        "All pixels of the image share a scale, and so do the weights of a filter but for small integers, so that the layer is two to four times as fast. The scale of the brightest pixel is a coarse one for dark ones: W4A4 loses 0.2 to 0.4 dB.",
    ),
    (
        "quantize.winograd",
        "3x3 convolutions of stride 1 take 2.25 times fewer multiplications, with exactly the same integers, which makes them up to twice as fast with AVX2 alone, 1.4 to 1.8 times with AVX-VNNI or AVX-512. For that all taps of a filter share the scales of their blocks, and all pixels of an input share one, so 6 bits say about what 4 bits with a scale a block do.",
    ),
    (
        "quantize.rules",
        "Rules are merged key by key: of those that name a layer, the last one that sets a key decides of it, and `skip = true` holds until a later rule says `skip = false`. A rule that others leave nothing of is refused. `bits` is the weights', `activation = { bits = 8 }` the input's. `dsconv analyze MODEL --budget 4.2bits` writes rules that are worth their bytes.",
    ),
    (
        "adapt.steps",
        "More steps win tenths of a point as long as the divergence on images held out falls; the best checkpoint is exported, not the last.",
    ),
    (
        "adapt.batch",
        "Memory grows with it: a step keeps the activations of every layer. At 224 pixels the recipes take 16.",
    ),
    (
        "adapt.parts",
        "Changes the last bits of the result, never the number of cores does. More than 2 may pay on many cores.",
    ),
    (
        "adapt.checkpoint_every",
        "Each checkpoint measures the images held out, and a killed run goes on from the newest.",
    ),
    ("adapt.held_out", "More make the choice of the checkpoint surer and leave fewer images to learn from."),
    ("adapt.patience", "Stops a run that no longer gets better; what is exported stays the same."),
    ("adapt.optimizer", "The defaults of the three rates below are for adam."),
    (
        "adapt.code_rate",
        "Weights move by about this part of a code a step. Lower it, to 2e-3, where the divergence on images held out rises or training diverges.",
    ),
    ("adapt.scale_rate", "0 keeps the scales as fitted."),
    ("adapt.learning_rate", "Biases, and whatever stays in floats."),
    ("adapt.warmup", "Adam's first steps are its roughest. After it the rates follow a cosine down to 0."),
    ("adapt.weight_decay", "Seldom of use here: codes cannot grow beyond their range."),
    ("adapt.clip", "Keeps one odd batch from undoing many steps."),
    (
        "adapt.temperature",
        "Higher ones make the student learn the teacher's ranking of all classes, lower ones its first choice.",
    ),
    (
        "adapt.feature_weight",
        "Above 0 the student learns the teacher's inner values too, those of the nodes in `adapt.features`.",
    ),
    (
        "adapt.features",
        "Names as `dsconv inspect` shows them; `*` and `?` stand for letters. It matters only with `adapt.feature_weight` above 0.",
    ),
    (
        "adapt.scale_update",
        "trained: a gain a block is learned. fixed: scales stay. recomputed: the scale rule finds them anew at each step, as in the paper, which is slow.",
    ),
    (
        "adapt.batch_norm",
        "fold: the teacher's statistics become weights and biases. reestimate: statistics are measured anew on the quantized student first, then folded.",
    ),
    ("adapt.augment.shift", "Keeps a few thousand images from being learned by heart. 0 switches it off."),
    ("adapt.augment.flip", "Right for photographs, wrong for digits, text and traffic signs."),
    (
        "adapt.fit_images",
        "Fitting wins most of the loss before any training, in closed form. 128 images win nearly all of it; 0 begins from the scale rule alone.",
    ),
    ("export.floats", "f16 halves biases and float layers; f32 keeps them to the bit."),
    ("export.scale_precision", "f16 costs half a bit a weight in blocks of 32, f32 a whole one."),
];

const TRAIN: &[Said] = &[
    (
        "start",
        "Parameters to go on from; without it they are drawn by `train.seed`. A quantized network, such as the result of `dsconv distill`, stays quantized: its codes and scales learn the labels (quantization-aware training), and `model.name` is the name of its graph.",
    ),
    ("model.name", "One of the five families; its paper's layers, changed by the keys below."),
    ("model.classes", "Where it is missing, ImageNet's 1000 or what the data set has."),
    ("model.channels", "1 for grey pictures, 3 for colour."),
    ("model.width", "A quarter of the channels is about a sixteenth of the weights and of the time."),
    (
        "model.stem",
        "small keeps the resolution in the first layers, as networks for CIFAR-10 do; imagenet halves it twice or more.",
    ),
    ("model.input", "Pictures are resized to it unless `image.resize` and `image.crop` say otherwise."),
    (
        "model.transform_input",
        "torchvision's GoogLeNet weights expect ImageNet's normalisation undone inside the network.",
    ),
    ("data.train", "Folders named like classes, or a `labels.txt`."),
    ("data.train_images", "Images are taken evenly over the set, so that no class is left out."),
    ("data.eval_images", "Images are taken evenly over the set."),
    (
        "train.epochs",
        "The learning rate reaches 0 at the end of the last one, so a longer training is another training.",
    ),
    ("train.batch", "Twice the batch wants about twice the learning rate, with sgd."),
    (
        "train.optimizer",
        "sgd has Nesterov's momentum of 0.9; adam and adamw want lower rates, such as the 1e-3 of the recipes.",
    ),
    ("train.learning_rate", "Lower it where the loss is not a number or does not fall."),
    ("train.warmup", "Networks without batch normalisation need it most."),
    ("train.weight_decay", "5e-4 with sgd is usual for small networks, 1e-4 for ImageNet."),
    ("train.label_smoothing", "0.1 is usual for ImageNet."),
    ("train.clip", "Of use for networks without batch normalisation."),
    ("train.augment.shift", "4 is usual for CIFAR-10."),
    ("train.augment.flip", "Right for photographs, wrong for digits, text and traffic signs."),
    ("train.monitor", "Only a sample, to watch: the last measurement takes all images of `data.eval`."),
    ("train.code_rate", "As `adapt.code_rate`: lower it where no epoch is better than the network before the first."),
    ("train.scale_rate", "0 keeps the scales."),
    ("train.held_out", "A quarter of all at most. A float network has none: its last epoch counts."),
    ("train.seed", "Same seed, config, images and kind of CPU: same weights, to the bit."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigKind;
    use crate::keys::of;

    #[test]
    fn every_key_is_explained_once_and_nothing_else_is() {
        let said: Vec<&str> = [IMAGE, DISTILL, TRAIN].into_iter().flatten().map(|(key, _)| *key).collect();
        let keys: Vec<&str> =
            [ConfigKind::Distill, ConfigKind::Train].into_iter().flat_map(of).map(|key| key.name).collect();
        for key in &keys {
            assert_eq!(said.iter().filter(|said| *said == key).count(), 1, "{key}");
        }
        assert!(said.iter().all(|said| keys.contains(said)));
        assert!([IMAGE, DISTILL, TRAIN].into_iter().flatten().all(|(_, text)| text.ends_with('.')));
    }
}
