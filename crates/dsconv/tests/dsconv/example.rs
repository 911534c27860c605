//! This test runs the example, and the file that it writes.

#[path = "../../examples/your_model.rs"]
mod your_model;

#[test]
fn a_model_of_ones_own_runs_in_the_engine() {
    your_model::main().unwrap();
    let file = std::env::temp_dir().join("dsconv_your_model.dsc");
    let engine = runtime::Model::load(&file).unwrap();
    let logits = engine.session(1).unwrap().run(&[0.5; 3 * 12 * 12]).unwrap().to_vec();
    assert_eq!(logits.len(), 10);
    assert!(logits.windows(2).any(|pair| pair[0] != pair[1]), "{logits:?}");
    std::fs::remove_file(file).unwrap();
}
