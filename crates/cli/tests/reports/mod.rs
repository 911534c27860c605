//! Pages to look at, `report.html` and `--html`.
use super::*;

/// Reads a page, and checks what is true of all: it is whole, loads nothing and runs nothing.
#[track_caller]
fn page(place: &Place, file: &str) -> String {
    let text = std::fs::read_to_string(place.path(file)).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"), "{file}");
    for tag in ["<script", "<link", "<iframe", "src=\"http", "href=\"http", "url("] {
        assert!(!text.contains(tag), "{file}: {tag}");
    }
    assert!(text.contains("How this was made"), "{file}");
    text
}

/// The cells of the first row of a page that begins with `name`.
fn row(page: &str, name: &str) -> Vec<String> {
    let (_, rest) = page.split_once(&format!("<tr><td>{name}</td>")).unwrap_or_else(|| panic!("no row {name}"));
    let (cells, _) = rest.split_once("</tr>").unwrap();
    let text = |cell: &str| cell.rsplit('>').next().unwrap().to_owned();
    cells.split("</td>").filter(|cell| !cell.is_empty()).map(text).collect()
}

#[test]
fn a_run_leaves_a_report_and_what_it_named() {
    let place = Place::new();
    place.write("configs/mine_4bit.toml", RECIPE);
    let metrics = place.json(&["distill", "mine_4bit", "--out", "run"]);
    let html = page(&place, "run/report.html");
    let top1 = |network: &str| metrics[network]["top1"].as_f64().unwrap();
    assert_eq!(row(&html, "FP32")[0], format!("{:.2}", top1("fp32")));
    assert_eq!(row(&html, "adapted")[0], format!("{:.2}", top1("adapted")));
    for section in ["Adaptation", "Classes", "Confusion", "Layers", "The worst layers", "Config"] {
        assert!(html.contains(&format!("<h2>{section}</h2>")), "{section}");
    }
    assert!(html.contains("dsconv distill mine_4bit --out run --json"), "the command");
    assert!(html.contains("checkpoint_every"), "the resolved config");

    // The table of what was named gives the accuracy again.
    let table = std::fs::read_to_string(place.path("run/predictions.csv")).unwrap();
    let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap(), ["image", "label", "fp32", "quantized", "adapted"]);
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len() as u64, metrics["fp32"]["count"].as_u64().unwrap());
    for (column, network) in [(2, "fp32"), (3, "quantized"), (4, "adapted")] {
        let right = rows.iter().filter(|row| row[column] == row[1]).count();
        assert_eq!(100.0 * right as f64 / rows.len() as f64, top1(network), "{network}");
    }
    let differing = rows.iter().filter(|row| row[2] != row[4]).count();
    assert_eq!(html.matches("<img ").count(), differing.min(24), "a picture for each difference");

    // A finished run shows its report again, also one of a time before there was that table.
    std::fs::remove_file(place.path("run/report.html")).unwrap();
    std::fs::remove_file(place.path("run/predictions.csv")).unwrap();
    assert_eq!(place.run(&["distill", "mine_4bit", "--out", "run", "--resume"]).code, Some(0));
    assert!(!page(&place, "run/report.html").contains("<h2>Classes</h2>"));

    place.json(&["compare", "run", "--html", "runs.html"]);
    let html = page(&place, "runs.html");
    assert_eq!(row(&html, "run")[0], format!("{:.2}", top1("fp32")));
    assert_eq!(html.matches("<svg").count(), 4, "accuracy and agreement by size and by time");
}

#[test]
fn commands_write_what_they_print_as_a_page() {
    let place = Place::new();
    place.json(&["quantize", "tiny.safetensors", "-o", "tiny.dsc", "--html", "quantize.html"]);
    let html = page(&place, "quantize.html");
    assert!(html.contains("<h2>The worst layers</h2>") && html.contains(": inputs</figcaption>"), "histograms");
    assert!(html.contains("layers, ") && html.contains("weights quantized"));

    let args = ["eval", "tiny.dsc", "--limit", "48", "--against", "tiny.safetensors", "--html", "eval.html"];
    let scores = place.json(&args);
    let html = page(&place, "eval.html");
    let cells = row(&html, "tiny.dsc");
    let top1 = format!("{:.2}", scores["top1"].as_f64().unwrap());
    assert_eq!(cells[..4], ["tiny.safetensors", "embedded/eval", "48", &top1]);
    let differing = (48.0 * (1.0 - scores["agreement"].as_f64().unwrap() / 100.0)).round() as usize;
    assert_eq!(html.matches("<img ").count(), differing.min(24));
    // Nothing is lost without a word.
    let ran = place.run(&args);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("`eval.html`") && ran.err.contains("--force"), "{}", ran.err);
    assert_eq!(place.run(&[&args[..], &["--force"]].concat()).code, Some(0));
    place.json(&["eval", "tiny.dsc", "--limit", "8", "--html", "alone.html"]);
    assert!(!page(&place, "alone.html").contains("<img "), "nothing to differ from");

    let layers = place.json(&["bench", "tiny.dsc", "--runs", "1", "--html", "bench.html"])["layers"].clone();
    let html = page(&place, "bench.html");
    assert_eq!(html.matches("<dt>").count(), layers.as_array().unwrap().len(), "a bar for each step");
    let layers = place.json(&["analyze", "tiny.safetensors", "--proxy", "--html", "analyze.html"])["layers"].clone();
    let worst = layers[0]["layer"].as_str().unwrap();
    let html = page(&place, "analyze.html");
    assert!(html.contains(&format!("<dt>{worst}</dt>")), "{worst}");
}

#[test]
fn a_sweep_runs_all_combinations_and_goes_on_where_it_was_stopped() {
    let place = Place::new();
    place.write("configs/mine_4bit.toml", RECIPE);
    let sweep = ["sweep", "mine_4bit", "--vary", "quantize.bits=4,2", "--vary", "quantize.block=8,16", "--out", "all"];
    let found = place.json(&sweep);
    let rows = found["rows"].as_array().unwrap();
    let values: Vec<_> = rows
        .iter()
        .map(|row| {
            (row["values"]["quantize.bits"].as_str().unwrap(), row["values"]["quantize.block"].as_str().unwrap())
        })
        .collect();
    assert_eq!(values, [("4", "8"), ("4", "16"), ("2", "8"), ("2", "16")]);
    // Two bits take less room than four, fewer scales less than more.
    let bytes: Vec<u64> = rows.iter().map(|row| row["adapted"]["bytes"].as_u64().unwrap()).collect();
    assert!(bytes[3] < bytes[2] && bytes[2] < bytes[0] && bytes[1] < bytes[0], "{bytes:?}");
    let csv = std::fs::read_to_string(place.path("all/results.csv")).unwrap();
    assert!(csv.starts_with("quantize.bits,quantize.block,fp32_top1,quantized_top1,adapted_top1,"), "{csv}");
    let html = page(&place, "all/report.html");
    assert_eq!(html.matches("<svg").count(), 4);
    // A run of the sweep is a run like others.
    let alone =
        place.json(&["distill", "mine_4bit", "--set", "quantize.bits=2", "--set", "quantize.block=16", "--out", "one"]);
    assert_eq!(alone["adapted"], rows[3]["adapted"]);

    place.run(&sweep).refuses(
        1,
        "error: `all` is not empty\n\nhint: `--resume` goes on with the sweep in it, `--out` names another folder",
    );
    // One run is lost, one is new, and the others are not run again.
    let run = |name: &str| place.path("all").join(name);
    let written = |name: &str| std::fs::metadata(run(name).join("model.safetensors")).unwrap().modified().unwrap();
    let before = written("quantize.bits-4+quantize.block-8");
    std::fs::remove_dir_all(run("quantize.bits-2+quantize.block-8")).unwrap();
    let more = [
        "sweep",
        "mine_4bit",
        "--vary",
        "quantize.bits=4,2,3",
        "--vary",
        "quantize.block=8,16",
        "--out",
        "all",
        "--resume",
    ];
    let again = place.json(&more);
    assert_eq!(again["rows"].as_array().unwrap().len(), 6);
    for at in 0..4 {
        for what in ["fp32", "quantized", "adapted"] {
            assert_eq!(again["rows"][at][what], rows[at][what], "{at} {what}");
        }
    }
    assert_eq!(written("quantize.bits-4+quantize.block-8"), before);

    // What is wrong with the last value is said before the first run.
    let ran = place.run(&["sweep", "mine_4bit", "--vary", "quantize.bits=4,9", "--out", "wrong"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("--set quantize.bits=9") && !place.path("wrong").exists(), "{}", ran.err);
    let ran = place.run(&["sweep", "mine_4bit", "--vary", "quantize.bits", "--out", "wrong"]);
    assert!(ran.code == Some(2) && ran.err.contains("`quantize.bits=4,3,2`"), "{}", ran.err);
}

#[test]
fn a_benchmark_puts_formats_beside_each_other() {
    let place = Place::new();
    let args = ["benchmark", "tiny.safetensors", "--limit", "48", "--images", "none", "--html", "formats.html"];
    let found = place.json(&args);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows[0]["format"], "FP32");
    let is_file = |row: &&Value| row["format"].as_str().unwrap().starts_with("ONNX");
    let (files, rows): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(is_file);
    assert_eq!((&rows[0]["agreement"], rows.len()), (&Value::from(100.0), 8));
    assert!(page(&place, "formats.html").matches("<svg").count() == 2);
    // Each row is what its options make.
    for row in &rows[1..] {
        assert!(row["milliseconds"].as_f64().unwrap() > 0.0, "{row}");
        let options = row["command"].as_str().unwrap().split_whitespace().skip(3);
        let make = ["quantize", "tiny.safetensors", "--images", "none", "-o", "q.dsc", "--force"];
        let made = place.json(&make.into_iter().chain(options).collect::<Vec<_>>());
        let scores = place.json(&["eval", "q.dsc", "--limit", "48", "--against", "tiny.safetensors"]);
        assert_eq!(
            [&made["bytes"], &scores["top1"], &scores["agreement"]],
            [&row["bytes"], &row["top1"], &row["agreement"]]
        );
    }
    if found["onnxruntime"].is_null() {
        eprintln!("SKIPPED: python3 has no ONNX Runtime; DSCONV_PYTHON names another");
        return;
    }
    // What ONNX Runtime makes of the exported files is what they were made of, but for 8 bits with one scale a value.
    let agreement = |row: &Value| row["agreement"].as_f64().unwrap();
    let formats: Vec<&str> = files.iter().map(|row| row["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["ONNX, FP32", "ONNX, INT8", "ONNX, W4A4"]);
    assert!(files.iter().all(|row| row["milliseconds"].as_f64().unwrap() > 0.0));
    let w4a4 = rows.iter().find(|row| row["format"] == "W4A4").unwrap();
    assert_eq!(agreement(files[0]), 100.0);
    // Sums of another order may round an input the other way.
    assert!((agreement(files[2]) - agreement(w4a4)).abs() < 5.0, "{}", files[2]);
    assert!(agreement(files[1]) > 90.0, "{}", files[1]);
}
