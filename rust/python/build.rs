//! Gathers what `_core.pyi` says of functions, classes and their methods, for `docs.rs`: it stands in one place.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

const STUB: &str = "../../aevent/_core.pyi";

fn main() {
    println!("cargo::rerun-if-changed={STUB}");
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let stub = fs::read_to_string(root.join(STUB)).expect("the stub belongs to the sources");
    let mut table = String::from("&[\n");
    for (class, member, doc) in documented(&stub) {
        writeln!(table, "    ({class:?}, {member:?}, {doc:?}),").expect("strings take everything");
    }
    table.push_str("]\n");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("docs.rs"), table).expect("cargo gives a folder to write to");
}

/// Class (empty for a function of the module), public member (empty for the class itself), docstring. The stub is formatted by ruff, so lines
/// are enough to go by.
fn documented(stub: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut class = String::new();
    let mut member = String::new();
    let mut expecting = false;
    let mut lines = stub.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let Some(rest) = line.strip_prefix("class ") {
            class = name(rest);
            member.clear();
            expecting = true;
        } else if let Some(rest) = line.strip_prefix("def ") {
            class.clear();
            member = name(rest);
            expecting = true;
        } else if depth == 0 && !text.is_empty() && !text.starts_with(['@', ')']) {
            class.clear();
        } else if depth == 4
            && let Some(rest) = text
                .strip_prefix("def ")
                .or_else(|| text.strip_prefix("async def "))
        {
            member = name(rest);
            expecting = true;
        }
        let Some(first) = text.strip_prefix("\"\"\"") else {
            continue;
        };
        let mut doc = Vec::from([first]);
        while !doc.last().is_some_and(|line| line.ends_with("\"\"\"")) {
            let line = lines.next().expect("a docstring ends");
            doc.push(line.get(depth..).unwrap_or(""));
        }
        if expecting && !(class.is_empty() && member.is_empty()) && !member.starts_with('_') {
            let doc = doc.join("\n");
            let doc = doc.trim_end_matches("\"\"\"").trim_end();
            found.push((class.clone(), member.clone(), doc.to_owned()));
        }
        expecting = false;
    }
    found
}

/// The identifier at the beginning.
fn name(text: &str) -> String {
    text.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}
