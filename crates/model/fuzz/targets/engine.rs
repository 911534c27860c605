//! Runs the models that the reader accepted.
use model::Model;
use model::dsc::Pair;
use runtime::KernelName;

/// The most operations of a network that is run, about a millisecond; others are planned and get their buffers only.
const OPERATIONS: u64 = 1 << 20;

/// Checks that the plain kernel, the AVX2 kernel and the fastest one give the same bits, or the same error, for ordinary and
/// huge inputs.
pub fn check(model: &Model) {
    let plain = answers(model, Some(KernelName::Scalar));
    for kernel in [Some(KernelName::Avx2).filter(|name| runtime::kernels().contains(name)), None] {
        let other = answers(model, kernel);
        assert!(plain == other, "{plain:?}, {kernel:?}: {other:?}");
    }
}

fn answers(model: &Model, kernel: Option<KernelName>) -> Result<Vec<Result<Vec<u32>, String>>, String> {
    let engine = runtime::Model::with_kernel(model.clone(), kernel).map_err(|error| error.to_string())?;
    let mut session = engine.session(1).map_err(|error| error.to_string())?;
    if model.graph().cost().operations > OPERATIONS {
        return Ok(vec![]);
    }
    let input = Pair::input(1, engine.input());
    let mut run = |scale: f32| {
        let input: Vec<f32> = [&input[..], &input[..]].concat().iter().map(|x| x * scale).collect();
        let logits = session.run(&input).map_err(|error| error.to_string())?;
        assert!(logits.len() == 2 * engine.outputs() && logits.iter().all(|x| x.is_finite()));
        assert!(logits[..engine.outputs()] == logits[engine.outputs()..]);
        Ok(logits.iter().map(|x| x.to_bits()).collect())
    };
    Ok(vec![run(1.0), run(1e30)])
}
