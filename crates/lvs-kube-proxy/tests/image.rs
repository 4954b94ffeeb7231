//! `deploy/image` makes a layout in which every name is the digest of what it names.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

#[test]
fn the_layout_of_the_image() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("amd64"), "the program").unwrap();
    fs::write(path.join("arm64"), "the other program").unwrap();
    let make = |out: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/image");
        let pair = |arch: &str| format!("{arch}={}", path.join(arch).display());
        let output = Command::new(script)
            .arg(path.join(out))
            .args([pair("amd64"), pair("arm64")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(path.join(out).join("index.json")).unwrap()
    };
    let index = make("one");
    assert_eq!(index, make("two"), "the same bytes each time");
    let layout = path.join("one");
    let version = fs::read_to_string(layout.join("oci-layout")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&version).unwrap()["imageLayoutVersion"], "1.0.0");

    let index: Value = serde_json::from_str(&index).unwrap();
    let name = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(name, env!("CARGO_PKG_VERSION"));
    let all: Value = read(&blob(&layout, &index["manifests"][0]));
    let mut architectures = Vec::new();
    for entry in all["manifests"].as_array().unwrap() {
        let arch = entry["platform"]["architecture"].as_str().unwrap();
        let manifest = read(&blob(&layout, entry));
        let config = read(&blob(&layout, &manifest["config"]));
        assert_eq!(config["architecture"], arch);
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/lvs-kube-proxy");
        let layer = blob(&layout, &manifest["layers"][0]);
        let tar = run("gzip", &["-dc", layer.to_str().unwrap()], &[]);
        let digest = format!("sha256:{}", sha256(&tar));
        assert_eq!(config["rootfs"]["diff_ids"][0], digest.as_str());
        let program = run("tar", &["-xO", "./usr/bin/lvs-kube-proxy"], &tar);
        assert_eq!(program, fs::read(path.join(arch)).unwrap());
        architectures.push(arch.to_owned());
    }
    assert_eq!(architectures, ["amd64", "arm64"]);
}

/// The file that a descriptor names, which has its size and its digest.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let path = layout.join("blobs/sha256").join(digest);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(descriptor["size"], bytes.len());
    assert_eq!(sha256(&bytes), digest);
    path
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let output = run("sha256sum", &[], bytes);
    String::from_utf8(output).unwrap().split(' ').next().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    let mut child =
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}
