//! These tests compare the devices that are cargo features with the default CPU backend, in values and gradients.

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize};
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

#[test]
fn block_float_is_the_cpus() {
    let shape = [2, 70, 3, 5];
    let input = formula_input(shape).into_data();
    for (name, device) in devices() {
        for signed in [true, false] {
            for scale in [ActivationScale::Float, ActivationScale::Pow2] {
                for (groups, block) in [(1, 32), (7, 4), (1, 70)] {
                    let block = BlockSize::new(block).unwrap();
                    let format = ActivationFormat { bits: Bits::new(4).unwrap(), block, scale };
                    let run = |device: &Device| {
                        let x = Tensor::<4>::from_data(TensorData::new(input.clone(), shape), device);
                        values(block_float(x, format, signed, groups))
                    };
                    // One step of 15 where a quotient lies at a half and the device's division rounds the other way.
                    let (got, want) = (run(&device), run(&Device::flex()));
                    let same = got.iter().zip(&want).filter(|(g, w)| (*g - *w).abs() <= 1e-6).count();
                    assert!(same as f32 >= 0.995 * want.len() as f32, "{name}: {same} of {} agree", want.len());
                    close(name, &got, &want, 0.3);
                }
            }
        }
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
