//! Prints the graph that is imported from an ONNX file.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("show FILE.onnx")?;
    let imported = onnx::import(&std::fs::read(&path)?, &onnx::ImportOptions::default())?;
    for node in imported.graph.nodes() {
        let inputs: Vec<&str> = node.inputs.iter().map(|&id| imported.graph.node(id).name.as_str()).collect();
        println!("{:40} {:14} {:?} {}", node.name, node.shape.to_string(), node.op, inputs.join(", "));
    }
    println!("{:?}", imported.notes);
    Ok(())
}
