//! These tests compare the devices that are cargo features with the default CPU backend, in values and gradients.

use blockfloat::{ActivationFormat, ActivationScale, ActivationSpec, Bits, BlockSize, SplitMix64};
use burn::tensor::{Device, Tensor, TensorData};
use dsconv::{Network, ScaleUpdate, block_float};
use graph::Preprocess;
use model::policy::Policy;
use model::{Info, Model};
use zoo::testing::{formula_input, formula_weights};

/// Finds every device that was compiled in and is present. A missing driver makes burn panic while it looks.
fn devices() -> Vec<(&'static str, Device)> {
    #[allow(unused_mut, reason = "a default build has none of them")]
    let mut found: Vec<(&'static str, Device)> = Vec::new();
    #[cfg(feature = "ndarray")]
    #[allow(deprecated, reason = "burn prefers flex; ndarray is promised to users")]
    found.push(("ndarray", Device::ndarray()));
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    {
        use burn::tensor::DeviceType;
        let kinds: &[(&'static str, fn() -> DeviceType)] = &[
            #[cfg(feature = "wgpu")]
            ("wgpu", || DeviceType::Wgpu),
            #[cfg(feature = "cuda")]
            ("cuda", || DeviceType::Cuda),
        ];
        for (name, kind) in kinds {
            match std::panic::catch_unwind(|| Device::enumerate(kind()).into_vec()).map(|mut all| all.pop()) {
                Ok(Some(device)) => found.push((name, device)),
                _ => println!("SKIPPED: {name} is compiled in, but this machine has no such device"),
            }
        }
    }
    let compiled =
        [("ndarray", cfg!(feature = "ndarray")), ("wgpu", cfg!(feature = "wgpu")), ("cuda", cfg!(feature = "cuda"))];
    for (name, _) in compiled.iter().filter(|(_, compiled)| !compiled) {
        println!("SKIPPED: not built with the feature `{name}`");
    }
    found
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.inner().into_data().try_to_vec().unwrap()
}

fn close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * largest, "{name}, element {i}: {g} and {w}");
    }
}

/// What the inputs of a test of rounding look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any bits: NaN, infinities, subnormals, and blocks whose elements are far apart.
    AnyBits,
    /// Magnitudes that are close in a pixel, and cover all exponents from pixel to pixel.
    Near,
    /// Odd multiples of half a step, exactly: they round to even.
    Halves,
    /// Neighbours of odd multiples of half a step, where one wrong bit of a scale or its reciprocal gives another code.
    BesideHalves,
}

/// Draws `[N, C, H, W]` of such values. `high` is the largest code.
fn draw(kind: Kind, [n, c, h, w]: [usize; 4], high: i32, random: &mut SplitMix64) -> Vec<f32> {
    let mut x = vec![0.0; n * c * h * w];
    let area = h * w;
    for pixel in 0..n * area {
        let exponent = (random.next_u64() % 255) as u32;
        let largest = f32::from_bits(exponent << 23 | random.next_u64() as u32 & 0x7f_ffff);
        let power = ((random.next_u64() % 200) as f32 - 100.0).exp2();
        for channel in 0..c {
            let bits = random.next_u64();
            let sign = (bits as u32 & 1) << 31;
            let odd = ((bits >> 8) % (2 * high as u64)) as f32 + 0.5;
            let magnitude = match kind {
                Kind::AnyBits => f32::from_bits(bits as u32 >> 1),
                Kind::Near => {
                    let below = (bits >> 56) as u32 % 8;
                    f32::from_bits(exponent.saturating_sub(below) << 23 | (bits >> 8) as u32 & 0x7f_ffff)
                }
                // Where the largest code is there, the step is a power of two for either kind of scale.
                Kind::Halves if bits >> 60 == 0 => high as f32 * power,
                Kind::Halves => odd.min(high as f32 - 0.5) * power,
                Kind::BesideHalves if bits >> 61 == 0 => largest,
                Kind::BesideHalves => {
                    let half = (odd.min(high as f32 - 0.5) * (largest / high as f32)).to_bits();
                    f32::from_bits((half + (bits >> 40) as u32 % 5).saturating_sub(2))
                }
            };
            let at = (pixel / area * c + channel) * area + pixel % area;
            x[at] = f32::from_bits(magnitude.to_bits() | sign);
        }
    }
    x
}

/// Copies `[N, C, H, W]` to `[N, H, W, C]`.
fn channels_last(x: &[f32], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let area = h * w;
    (0..n * area * c).map(|i| x[(i / (area * c) * c + i % c) * area + i / c % area]).collect()
}

/// Asserts that two results have the same bits. Any NaN is like any other.
fn same_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "{what}, element {i}: {g:e}, not {w:e}");
    }
}

#[test]
fn block_float_has_the_bits_of_the_reference() {
    // Ragged blocks, groups, a block longer than the channels, blocks of one channel, linear layers.
    let cases = [
        ([2, 70, 3, 5], 1, 32),
        ([2, 70, 3, 5], 7, 4),
        ([1, 70, 7, 9], 1, 128),
        ([3, 66, 4, 4], 2, 32),
        ([2, 5, 33, 31], 1, 1),
        ([9, 130, 1, 1], 1, 32),
        ([1, 64, 1, 40], 1, 32),
        // All pixels of an image share a scale.
        ([3, 3, 17, 19], 1, 0),
    ];
    let mut random = SplitMix64::new(13);
    for (name, device) in devices() {
        let (mut compared, mut finite) = (0, 0);
        for scale in [ActivationScale::Float, ActivationScale::Pow2] {
            for (signed, bits) in (2..=8).flat_map(|bits| [(true, bits), (false, bits)]) {
                for (shape, groups, block) in cases {
                    for kind in [Kind::AnyBits, Kind::Near, Kind::Halves, Kind::BesideHalves] {
                        let block = if block == 0 { BlockSize::IMAGE } else { BlockSize::new(block).unwrap() };
                        let bits = Bits::new(bits).unwrap();
                        // Of an image with a NaN all is NaN, or what shares a pixel with it: a device's largest may leave NaNs out.
                        let kind = if block.is_image() && kind == Kind::AnyBits { Kind::Near } else { kind };
                        let format = ActivationFormat { bits, block, scale };
                        let x = draw(kind, shape, format.code_range(signed).1, &mut random);
                        let mut want = vec![0.0; x.len()];
                        let spec = ActivationSpec { shape, groups, format, signed };
                        blockfloat::dequantized_activations(&x, &spec, &mut want);

                        let what = format!("{name}: {kind:?}, {spec:?}");
                        let run = |x: Tensor<4>| values(block_float(x, format, signed, groups));
                        // The same values as convolutions leave them in memory: [N, H, W, C].
                        let [n, c, h, w] = shape;
                        let last =
                            Tensor::<4>::from_data(TensorData::new(channels_last(&x, shape), [n, h, w, c]), &device);
                        let first = Tensor::from_data(TensorData::new(x, shape), &device);
                        same_bits(&what, &run(first), &want);
                        same_bits(&format!("{what}, channels last"), &run(last.permute([0, 3, 1, 2])), &want);
                        compared += want.len();
                        finite += want.iter().filter(|v| v.is_finite()).count();
                    }
                }
            }
        }
        println!("{name}: {compared} values have the bits of the reference, {finite} of them finite");
    }
}

#[test]
fn block_float_hands_the_gradient_through() {
    let shape = [2, 70, 3, 5];
    let format = ActivationFormat {
        bits: Bits::new(4).unwrap(),
        block: BlockSize::new(32).unwrap(),
        scale: ActivationScale::Float,
    };
    for (name, device) in devices().into_iter().chain([("cpu", Device::flex())]) {
        let device = device.autodiff();
        let x = Tensor::<4>::from_data(TensorData::new(formula_input(shape).into_data(), shape), &device);
        let w = x.clone().add_scalar(0.25);
        let x = x.require_grad();
        // Operations before and after, so that a backend that fuses operations has some to fuse.
        let y = block_float(x.clone().mul_scalar(2.0), format, true, 1);
        let mut want = vec![0.0; y.dims().iter().product()];
        let spec = ActivationSpec { shape, groups: 1, format, signed: true };
        let doubled: Vec<f32> = formula_input(shape).into_data().iter().map(|v| v * 2.0).collect();
        blockfloat::dequantized_activations(&doubled, &spec, &mut want);
        same_bits(name, &values(y.clone()), &want);
        let gradients = (y * w.clone()).sum().backward();
        let want: Vec<f32> = values(w).iter().map(|w| w * 2.0).collect();
        same_bits(&format!("{name}, gradient"), &values(x.grad(&gradients).unwrap()), &want);
    }
}

#[test]
fn a_block_that_is_not_finite_is_nan() {
    // Channels 0, 1 and 2, 3 are blocks; three pixels.
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let input = vec![nan, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, inf, 3.0, 4.0, 4.0, 4.0];
    let is_nan = [true, false, false, true, false, false, false, true, false, false, true, false];
    let all = devices().into_iter().chain([("cpu", Device::flex())]);
    for (name, device) in all {
        for signed in [true, false] {
            for scale in [ActivationScale::Float, ActivationScale::Pow2] {
                let format = ActivationFormat { bits: Bits::new(4).unwrap(), block: BlockSize::new(2).unwrap(), scale };
                let x = Tensor::<4>::from_data(TensorData::new(input.clone(), [1, 4, 1, 3]), &device);
                let got: Vec<bool> = values(block_float(x, format, signed, 1)).iter().map(|v| v.is_nan()).collect();
                assert_eq!(got, is_nan, "{name}, signed {signed}, {scale:?}");
            }
        }
    }
}

#[test]
fn a_students_logits_and_gradients_are_the_cpus() {
    let graph = zoo::build(&zoo::Config { width: Some(0.5), ..zoo::Config::new("resnet20") }).unwrap();
    let weights = formula_weights(&graph);
    let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "formula".into() };
    let model = Model::float(graph, weights, info).unwrap();
    let folded = model.fold().unwrap();
    // Eight bits: a code that falls to the other side of a half moves little.
    let policy = Policy { bits: Bits::new(8).unwrap(), activation: None, ..Policy::default() };
    let plan = policy.resolve(folded.graph()).unwrap();
    let run = |device: &Device| {
        let device = device.clone().autodiff();
        let student = Network::student(&folded, &plan, ScaleUpdate::Trained, &device).unwrap();
        let shape = [2, 3, 32, 32];
        let x = Tensor::<4>::from_data(TensorData::new(formula_input(shape).into_data(), shape), &device);
        let x = x.require_grad();
        let logits = student.forward(x.clone());
        let grads = logits.clone().square().sum().backward();
        (values(logits), values(x.grad(&grads).unwrap()))
    };
    let (want_logits, want_grad) = run(&Device::flex());
    for (name, device) in devices() {
        let (logits, grad) = run(&device);
        close(name, &logits, &want_logits, 1e-3);
        close(name, &grad, &want_grad, 1e-2);
        println!("{name}: logits and gradients agree with the CPU's");
    }
}
