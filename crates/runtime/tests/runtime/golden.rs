//! The same file, the same answer, any CPU: logits of a network made by a formula, bit for bit.
//!
//! Every build for every CPU asserts these constants, from the quantizer to the last layer. They change only with the
//! arithmetic's contract.
use blockfloat::{Bits, BlockSize, ScaleFormat};
use model::{Model, Policy};
use zoo::testing::{formula_input, formula_weights};

use crate::ops::{every_exact_operation, info};

fn check(policy: &Policy, expected: [u32; 7]) {
    let graph = every_exact_operation().finish().unwrap();
    let weights = formula_weights(&graph);
    let model = Model::float(graph, weights, info()).unwrap().quantize(policy).unwrap();
    let image = formula_input([1, 3, 11, 11]);
    for kernel in runtime::kernels() {
        let engine = runtime::Model::with_kernel(model.clone(), Some(kernel)).unwrap();
        let mut session = engine.session(1).unwrap();
        let logits = session.run(image.data()).unwrap();
        let bits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, expected, "{kernel}: {logits:?}");
    }
}

#[test]
fn block_scales_give_these_bits_on_every_cpu() {
    let bits = [0xc00b_75c8, 0xbf86_99a6, 0x3f2b_cfec, 0x40c7_1def, 0xbf8d_cb4b, 0x4060_75fe, 0x3fb3_7986];
    check(&Policy { image_bits: Bits::new(4).unwrap(), ..Policy::default() }, bits);
}

#[test]
fn two_level_scales_give_these_bits_on_every_cpu() {
    let bits = |bits| Bits::new(bits).unwrap();
    let (scales, image_bits) = (ScaleFormat::TwoLevel, bits(4));
    let mut policy = Policy { bits: bits(5), scales, image_bits, ..Policy::default() };
    policy.activation.as_mut().unwrap().block = BlockSize::PIXEL;
    let bits = [0xc02d_254a, 0xc000_4dda, 0xbea8_88cd, 0x4096_2755, 0xbf33_b42b, 0x4082_dfbc, 0x3fa1_08e7];
    check(&policy, bits);
}

#[test]
fn a_layer_that_reads_the_image_as_one_sum_gives_these_bits_on_every_cpu() {
    let bits = [0xc01d_f820, 0xbfcf_970f, 0x3f6d_a748, 0x40b3_114f, 0xbfae_c626, 0x406c_d194, 0x3fb2_8fad];
    check(&Policy { image_sum: true, ..Policy::default() }, bits);
}
