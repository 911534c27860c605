//! The commands of the guides, run one after the other as they stand, on small files under the names that they use.
use super::*;

/// Returns the commands in the `sh` blocks of a guide, without their comments.
fn commands(guide: &str) -> Vec<String> {
    let path = format!("{}/../dsconv/src/guide/{guide}.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        if line.starts_with("```") {
            inside = *line == "```sh";
        }
        inside && line.starts_with("dsconv ")
    });
    lines.map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
}

/// A folder with a network and pictures, under the names of the guides.
fn place() -> Place {
    let place = Place::new();
    place.json(&["data", "make", "photos", "--limit", "16"]);
    for (made, named) in [("eval", "labelled"), ("adapt", "unlabelled")] {
        std::fs::rename(place.path(&format!("photos/{made}")), place.path(&format!("photos/{named}"))).unwrap();
    }
    std::fs::copy(place.path("photos/unlabelled/00000.png"), place.path("photos/porcupine.jpg")).unwrap();
    place.json(&["export", "tiny.safetensors", "--profile", "fp32", "-o", "googlenet.onnx"]);
    place.json(&["export", "tiny.safetensors", "--profile", "fp32", "-o", "my_network.onnx"]);
    std::fs::rename(place.path("tiny.safetensors"), place.path("resnet20.pth")).unwrap();
    place
}

#[test]
fn every_link_between_pages_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let folder = |path: &str| std::fs::read_dir(root.join(path)).unwrap().map(|entry| entry.unwrap().path());
    let readme = |folder: PathBuf| folder.join("README.md");
    let pages = folder("crates/dsconv/src/guide").chain(folder("crates").map(readme));
    let pages = pages.chain(folder("experiments").map(readme)).chain([root.join("README.md")]);
    let mut links = 0;
    for page in pages.filter(|page| page.exists() && *page != root.join("crates/dsconv/README.md")) {
        let text = std::fs::read_to_string(&page).unwrap();
        let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for target in targets.chain(
            text.lines()
                .filter_map(|line| line.split_once("]: ").filter(|_| line.starts_with('[')).map(|(_, target)| target)),
        ) {
            let file = target.split('#').next().unwrap();
            if !target.contains("://") && !file.is_empty() {
                assert!(page.parent().unwrap().join(file).exists(), "{}: {target}", page.display());
                links += 1;
            }
        }
    }
    assert!(links > 50, "{links}");
}

#[test]
fn every_command_of_the_guides_runs() {
    for guide in ["start", "deploy"] {
        let (place, commands) = (place(), commands(guide));
        assert!(commands.len() >= 5, "{guide}: {commands:?}");
        for command in commands {
            let args: Vec<&str> = command.split_whitespace().skip(1).collect();
            let ran = place.run(&args);
            assert_eq!(ran.code, Some(0), "{guide}: {command}\n{}", ran.err);
        }
    }
}
