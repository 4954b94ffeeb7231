//! Compiles `shim/ptrace.rs`, which User-Mode Linux needs on some processors, into the program.

use std::{env, fs, path::Path, process::Command};

const SOURCE: &str = "shim/ptrace.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let shim = Path::new(&variable("OUT_DIR")).join("ptrace.so");
    if !Path::new(SOURCE).exists() {
        println!("cargo::error=the package lacks {SOURCE}");
    }
    // User-Mode Linux exists for x86-64 only.
    if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        let (rustc, linker) = (variable("RUSTC"), variable("RUSTC_LINKER"));
        match compile(&rustc, &variable("TARGET"), &linker, &shim) {
            Ok(()) => return,
            Err(words) => {
                println!(
                    "cargo::warning={SOURCE} cannot be compiled, without which User-Mode Linux before \
                     6.13 does not run on processors with AMX: {}",
                    words.replace('\n', " ")
                );
            }
        }
    }
    // The program then includes an empty file.
    if let Err(error) = fs::write(&shim, "") {
        println!("cargo::error={}: {error}", shim.display());
    }
}

fn compile(rustc: &str, target: &str, linker: &str, shim: &Path) -> Result<(), String> {
    let mut command = Command::new(rustc);
    // Without std, which cargo cannot request for one part of a package. So the code cannot use `panic` either.
    command.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort"]);
    command.args(["-C", "strip=symbols", "-C", "link-arg=-nostdlib"]);
    // The shim is the same for every C library; without this, musl lacks the files to link it.
    command.args(["-C", "target-feature=-crt-static", "--target", target]);
    if !linker.is_empty() {
        command.arg("-C").arg(format!("linker={linker}"));
    }
    let output = command.arg("-o").arg(shim).arg(SOURCE).output();
    let output = output.map_err(|error| format!("{rustc}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
