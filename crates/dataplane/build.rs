//! Compiles the programs that run in the kernel.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let variable = |name: &str| env::var(name).expect("cargo sets it");
    let sources = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../../bpf");
    let out = PathBuf::from(variable("OUT_DIR"));
    // Where Debian has the kernel's headers of this machine's architecture.
    let headers = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH"));
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-I{headers}"))
        // Paths of this machine are nobody's matter, and would make each build another.
        .arg(format!("-ffile-prefix-map={}=.", sources.display()))
        .arg("-c")
        .arg(sources.join("programs.c"))
        .arg("-o")
        .arg(out.join("programs.o"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} {status}"),
        Err(error) => panic!(
            "{clang}: {error}; the programs in bpf/ are compiled by it: `make build` installs it, or \
             apt-get install clang libbpf-dev"
        ),
    }
}
