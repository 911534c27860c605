//! Each kernel, one property at a time, against the reference: [`blockfloat::quantize_activations`] and
//! [`blockfloat::conv2d`], then a residual and limits in plain loops. A test's name says the kernel and the property.
mod case;

use blockfloat::ActivationScale;

use self::case::{Added, Case, Scales};
use super::KernelName;
use super::table::rows;

const USUAL: Case = Case {
    channels: 64,
    outputs: 32,
    groups: 1,
    size: [3, 5],
    kernel: [1, 1],
    stride: 1,
    padding: 0,
    bits: 4,
    block: 32,
    scales: Scales::Blocks,
    nibbles: false,
    x_bits: 8,
    x_block: 64,
    x_scale: ActivationScale::Float,
    signed: false,
    bias: false,
    added: Added::Nothing,
    clamp: None,
    extreme: false,
    x_factor: 1.0,
    factor: 1.0,
    panels: 0..usize::MAX,
};

const DEPTHWISE: Case =
    Case { channels: 40, outputs: 40, groups: 40, kernel: [3, 3], padding: 1, block: 1, x_block: 1, ..USUAL };

/// The number of steps whose sums of two products fit 16 bits, of the least weights and the largest codes.
fn fitting(bits: u8, x_bits: u8, signed: bool) -> usize {
    let code = if signed { 127 + (1 << (x_bits - 1)) } else { (1 << x_bits) - 1 };
    32767 / ((2 * code) << (bits - 1))
}

/// What is tested, by name.
mod of {
    use super::{ActivationScale, Added, Case, DEPTHWISE, Scales, USUAL, fitting};

    pub fn one_pixel() -> Vec<Case> {
        vec![Case { size: [1, 1], ..USUAL }]
    }

    pub fn no_pixel() -> Vec<Case> {
        [USUAL, DEPTHWISE].map(|case| Case { size: [0, 4], kernel: [1, 1], padding: 0, ..case }).into()
    }

    pub fn last_pixels_of_a_strip() -> Vec<Case> {
        (1..32).map(|width| Case { size: [1, width], ..USUAL }).collect()
    }

    pub fn a_whole_strip() -> Vec<Case> {
        vec![Case { size: [16, 16], ..USUAL }]
    }

    pub fn neighbours_and_borders() -> Vec<Case> {
        vec![Case { kernel: [3, 3], padding: 1, ..USUAL }, Case { kernel: [3, 2], stride: 2, size: [5, 7], ..USUAL }]
    }

    pub fn ragged_lanes() -> Vec<Case> {
        [1, 7, 15, 16, 17, 31, 33].map(|outputs| Case { outputs, ..USUAL }).into()
    }

    pub fn some_panels() -> Vec<Case> {
        [0..1, 1..2, 1..3, 2..3].map(|panels| Case { outputs: 40, panels, ..USUAL }).into()
    }

    pub fn ragged_blocks() -> Vec<Case> {
        [1, 3, 5, 30, 33].map(|block| Case { block, x_block: 2 * block, channels: 67, ..USUAL }).into()
    }

    pub fn groups() -> Vec<Case> {
        [2, 4].map(|groups| Case { groups, kernel: [3, 3], padding: 1, block: 8, x_block: 16, ..USUAL }).into()
    }

    pub fn bias() -> Vec<Case> {
        vec![Case { bias: true, outputs: 20, ..USUAL }, Case { bias: true, scales: Scales::Products, ..USUAL }]
    }

    pub fn residual_rows() -> Vec<Case> {
        [16, 20].map(|outputs| Case { added: Added::Rows, outputs, ..USUAL }).into()
    }

    pub fn residual_in_the_output() -> Vec<Case> {
        [16, 20].map(|outputs| Case { added: Added::Output, outputs, ..USUAL }).into()
    }

    pub fn clamp() -> Vec<Case> {
        [(0.0, f32::INFINITY), (-0.5, 0.5)].map(|limits| Case { clamp: Some(limits), ..USUAL }).into()
    }

    pub fn bias_residual_and_clamp() -> Vec<Case> {
        let clamp = Some((0.0, 6.0));
        vec![
            Case { bias: true, added: Added::Rows, clamp, outputs: 27, ..USUAL },
            Case { bias: true, added: Added::Output, clamp, outputs: 27, scales: Scales::Products, ..USUAL },
        ]
    }

    pub fn signed_input() -> Vec<Case> {
        [Scales::Blocks, Scales::Products].map(|scales| Case { signed: true, scales, ..USUAL }).into()
    }

    pub fn power_of_two_scales() -> Vec<Case> {
        [false, true].map(|signed| Case { x_scale: ActivationScale::Pow2, signed, ..USUAL }).into()
    }

    pub fn fewest_bits() -> Vec<Case> {
        [false, true].map(|signed| Case { bits: 2, x_bits: 2, signed, ..USUAL }).into()
    }

    pub fn two_level_products() -> Vec<Case> {
        vec![Case { scales: Scales::Products, kernel: [3, 3], padding: 1, ..USUAL }]
    }

    pub fn two_level_factors() -> Vec<Case> {
        [false, true].map(|signed| Case { scales: Scales::Factors, signed, ..USUAL }).into()
    }

    pub fn bytes_that_do_not_fit_pairs() -> Vec<Case> {
        [false, true].map(|signed| Case { bits: 8, signed, ..USUAL }).into()
    }

    /// One block of each number of weight and input bits, a step longer than the steps that fit sums of 16 bits, then more of
    /// them with ragged ends: a sum of one step too many would not be the reference's.
    pub fn extremes_of_each_number_of_bits() -> Vec<Case> {
        let bits = (2..=8).flat_map(|bits| (2..=8).map(move |x_bits| (bits, x_bits)));
        bits.flat_map(|(bits, x_bits)| [(bits, x_bits, false), (bits, x_bits, true)])
            .flat_map(|(bits, x_bits, signed)| {
                let fitting = fitting(bits, x_bits, signed);
                [4 * (fitting + 1), 8 * fitting.max(1) + 1].map(|block| (bits, x_bits, signed, block))
            })
            .map(|(bits, x_bits, signed, block)| {
                let size = [1, 6];
                Case {
                    bits,
                    x_bits,
                    signed,
                    block,
                    x_block: block,
                    channels: block + 7,
                    size,
                    outputs: 17,
                    extreme: true,
                    ..USUAL
                }
            })
            .collect()
    }

    pub fn extremes_with_factors() -> Vec<Case> {
        let cases = extremes_of_each_number_of_bits().into_iter().filter(|case| case.bits <= 4);
        cases.map(|case| Case { scales: Scales::Factors, x_block: 2 * case.block, ..case }).collect()
    }

    pub fn extremes_in_nibbles() -> Vec<Case> {
        let cases = extremes_of_each_number_of_bits().into_iter().filter(|case| case.bits <= 4);
        cases.flat_map(|case| [3, 13].map(|width| Case { nibbles: true, size: [1, width], ..case.clone() })).collect()
    }

    pub fn nibbles_for_few_pixels() -> Vec<Case> {
        (1..9).map(|width| Case { nibbles: true, size: [1, width], outputs: 40, ..USUAL }).collect()
    }

    pub fn nibbles_for_many_pixels() -> Vec<Case> {
        [false, true].map(|signed| Case { nibbles: true, size: [6, 9], outputs: 40, signed, ..USUAL }).into()
    }

    pub fn nibbles_of_an_odd_number_of_steps() -> Vec<Case> {
        [1, 40]
            .map(|width| Case { nibbles: true, size: [1, width], channels: 60, block: 20, x_block: 20, ..USUAL })
            .into()
    }

    pub fn nibbles_with_factors() -> Vec<Case> {
        [1, 40].map(|width| Case { nibbles: true, size: [1, width], scales: Scales::Factors, ..USUAL }).into()
    }

    pub fn stem_of_three_channels() -> Vec<Case> {
        let stem = Case { channels: 3, kernel: [7, 7], stride: 2, padding: 3, size: [15, 15], signed: true, ..USUAL };
        [Scales::Blocks, Scales::Products, Scales::Factors].map(|scales| Case { scales, ..stem.clone() }).into()
    }

    pub fn stems_of_few_channels() -> Vec<Case> {
        let stems = |channels| stem_of_three_channels().into_iter().map(move |case| Case { channels, ..case });
        let all = [1, 2, 4].into_iter().flat_map(stems);
        all.chain(stem_of_three_channels())
            .flat_map(|case| [true, false].map(|signed| Case { signed, ..case.clone() }))
            .collect()
    }

    pub fn groups_of_four_channels() -> Vec<Case> {
        let case = Case { channels: 12, outputs: 12, groups: 3, kernel: [3, 3], padding: 1, ..USUAL };
        let scales = [Scales::Blocks, Scales::Products, Scales::Factors];
        scales
            .into_iter()
            .flat_map(|scales| [true, false].map(|signed| Case { scales, signed, ..case.clone() }))
            .collect()
    }

    /// Groups of as many outputs as a panel has in two, in four, and in other parts; the last panel is not full.
    pub fn small_groups() -> Vec<Case> {
        let groups = [(4, 4), (8, 8), (8, 4), (4, 8), (12, 8), (3, 4), (6, 2), (16, 16), (5, 5), (20, 4)];
        let case = |(inputs, outputs): (usize, usize)| {
            [1, 3, 5, 11].map(|groups| Case { channels: groups * inputs, outputs: groups * outputs, groups, ..USUAL })
        };
        let cases: Vec<Case> = groups.into_iter().flat_map(case).collect();
        let each = |case: Case| {
            let kernel = Case { kernel: [3, 3], padding: 1, bias: true, clamp: Some((0.0, 6.0)), ..case.clone() };
            [
                kernel.clone(),
                Case { signed: true, stride: 2, added: Added::Rows, ..kernel.clone() },
                Case { bits: 8, ..kernel.clone() },
                Case { bits: 2, x_bits: 4, extreme: true, x_scale: ActivationScale::Pow2, ..kernel },
                Case { scales: Scales::Products, block: 8, x_block: 8, ..case },
            ]
        };
        cases.into_iter().flat_map(each).collect()
    }

    pub fn stem_of_extremes() -> Vec<Case> {
        let stem = stems_of_few_channels().into_iter().chain(groups_of_four_channels());
        let bits = |case: Case| {
            [(4, 4), (4, 8), (5, 8), (6, 8), (7, 8), (8, 4), (8, 8)].map(|(bits, x_bits)| Case {
                bits,
                x_bits,
                extreme: true,
                ..case.clone()
            })
        };
        stem.flat_map(bits).filter(|case| case.bits <= 4 || case.scales != Scales::Factors).collect()
    }

    pub fn depthwise() -> Vec<Case> {
        [1, 2].map(|stride| Case { stride, ..DEPTHWISE }).into()
    }

    pub fn depthwise_of_signed_input() -> Vec<Case> {
        [ActivationScale::Float, ActivationScale::Pow2]
            .map(|x_scale| Case { signed: true, x_scale, ..DEPTHWISE })
            .into()
    }

    pub fn depthwise_two_level() -> Vec<Case> {
        [ActivationScale::Float, ActivationScale::Pow2]
            .map(|x_scale| Case { scales: Scales::Products, x_scale, ..DEPTHWISE })
            .into()
    }

    pub fn depthwise_with_an_end() -> Vec<Case> {
        [Added::Rows, Added::Output]
            .map(|added| Case { bias: true, added, clamp: Some((0.0, 6.0)), ..DEPTHWISE })
            .into()
    }

    pub fn depthwise_of_extreme_input() -> Vec<Case> {
        [1e-38, 1e30].map(|x_factor| Case { x_factor, factor: 1e-3, ..DEPTHWISE }).into()
    }

    pub fn depthwise_with_extreme_scales() -> Vec<Case> {
        [1e-38, 1e30].map(|factor| Case { factor, x_factor: 1e-3, ..DEPTHWISE }).into()
    }

    pub fn sums_that_leave_the_range_of_floats() -> Vec<Case> {
        let large = |case: Case| Case { x_factor: 1e30, factor: 1e12, ..case };
        // A limit does not hide them.
        let limited = |case: Case| Case { clamp: Some((-1.0, 1.0)), ..case };
        vec![large(USUAL), limited(large(USUAL)), limited(large(DEPTHWISE)), limited(large(of_one_lane()))]
    }

    pub fn values_of_a_depthwise_layer() -> Vec<Case> {
        let limits = [(0.0, 6.0), (0.0, f32::INFINITY)];
        let factors = [1.0, 1e-20, 1e30, 1e-3];
        limits
            .into_iter()
            .flat_map(|limits| factors.map(|factor| (limits, factor)))
            .flat_map(|(limits, x_factor)| {
                let case = Case { clamp: Some(limits), x_factor, outputs: 40, size: [5, 13], ..USUAL };
                [
                    case.clone(),
                    Case { kernel: [3, 3], padding: 1, ..case.clone() },
                    Case { scales: Scales::Products, bias: true, ..case.clone() },
                    Case { groups: 2, ..case },
                ]
            })
            .collect()
    }

    fn of_one_lane() -> Case {
        Case { outputs: 17, ..USUAL }
    }
}

macro_rules! suite {
    ($kernel:expr) => {
        suite! {
            $kernel;
            one_pixel, no_pixel, last_pixels_of_a_strip, a_whole_strip, neighbours_and_borders, ragged_lanes, some_panels,
            ragged_blocks, groups, bias, residual_rows, residual_in_the_output, clamp, bias_residual_and_clamp, signed_input,
            power_of_two_scales, fewest_bits, two_level_products, two_level_factors, bytes_that_do_not_fit_pairs,
            extremes_of_each_number_of_bits, extremes_with_factors, extremes_in_nibbles, stem_of_extremes,
            nibbles_for_few_pixels, nibbles_for_many_pixels, nibbles_of_an_odd_number_of_steps, nibbles_with_factors,
            stem_of_three_channels, stems_of_few_channels, groups_of_four_channels, small_groups, depthwise,
            depthwise_of_signed_input, depthwise_two_level, depthwise_with_an_end, depthwise_of_extreme_input, depthwise_with_extreme_scales,
            sums_that_leave_the_range_of_floats, values_of_a_depthwise_layer
        }
    };
    ($kernel:expr; $($case:ident),+) => {
        $(
            #[test]
            fn $case() {
                check($kernel, of::$case());
            }
        )+
    };
}

macro_rules! suites {
    ($($(#[$doc:meta])+ $name:ident, $variant:ident: $($part:ident)::+, if $place:meta;)+) => {
        $(
            #[cfg($place)]
            mod $name {
                use super::*;
                suite!(KernelName::$variant);
            }
        )+
    };
}

rows!(suites);

fn check(name: KernelName, cases: Vec<Case>) {
    let Some(kernel) = name.make() else {
        eprintln!("skipped: this CPU does not run {name}");
        return;
    };
    for (i, case) in cases.into_iter().enumerate() {
        if case.scales == Scales::Factors && !kernel.wants().factors_apart {
            eprintln!("skipped: the planner never gives {name} factors apart");
            continue;
        }
        case.check(&kernel, i as u64);
    }
}

/// Tests of a kernel are skipped where the CPU does not run it, but not where it is asked for.
#[test]
fn the_kernel_that_is_asked_for_can_be_made() {
    if let Ok(name) = std::env::var("DSCONV_KERNEL") {
        assert!(name.parse::<KernelName>().is_ok_and(|name| name.make().is_some()), "{name}");
    }
}

/// The numbers of the bound's proof, and those of the tests' own rule.
#[test]
fn steps_that_fit_sums_of_16_bits() {
    let known = [(4, 8, 8), (4, 7, 16), (4, 6, 32), (4, 5, 66), (4, 4, 136), (3, 4, 273), (2, 4, 546), (8, 8, 0)];
    for (bits, x_bits, steps) in known {
        assert_eq!(fitting(bits, x_bits, false), steps, "W{bits}A{x_bits}");
    }
    let kernel = KernelName::Scalar.make().expect("plain loops run anywhere");
    for case in of::extremes_of_each_number_of_bits() {
        assert_eq!(case.fitting(&kernel), fitting(case.bits, case.x_bits, case.signed), "{case:?}");
    }
}
