//! The page's script, made as a portal's author would make it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use slicewire_tests::portal::{NAME, Portal};

/// Where the .proto files and the page are.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What of the API the page uses.
const PROTOS: [&str; 3] = ["common", "live", "slice"];

/// The page's code and all that it needs, in one file.
pub(super) fn bundle(portal: &Portal, folder: &Path, token: &str) -> Result<String> {
    let packages = PathBuf::from(tool("SLICEWIRE_NODE_MODULES")?);
    std::fs::copy(format!("{ROOT}/tests/browser/page.ts"), folder.join("page.ts"))?;
    std::os::unix::fs::symlink(&packages, folder.join("node_modules"))?;
    errors(portal, folder, token)?;
    generate(&packages, folder)?;
    let program = |name: &str| {
        let mut command = Command::new(packages.join(".bin").join(name));
        command.current_dir(folder).arg("page.ts");
        command
    };
    run(program("tsc").args(["--noEmit", "--strict", "--skipLibCheck"]).args([
        "--target",
        "es2022",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
    ]))?;
    run(program("esbuild").args(["--bundle", "--format=esm", "--outfile=page.js"]))?;
    Ok(std::fs::read_to_string(folder.join("page.js"))?)
}

/// What `make stories` has put there.
fn tool(variable: &str) -> Result<std::ffi::OsString> {
    std::env::var_os(variable).with_context(|| format!("{variable} is not set: see `make stories`"))
}

/// The .proto file of the errors' details, as the hub describes it by reflection.
fn errors(portal: &Portal, folder: &Path, token: &str) -> Result<()> {
    std::fs::write(folder.join("ca.crt"), &portal.authority)?;
    run(Command::new(tool("SLICEWIRE_GRPCURL")?)
        .arg("-cacert")
        .arg(folder.join("ca.crt"))
        .args(["-authority", NAME, "-H", &format!("authorization: Bearer {token}")])
        .arg("-proto-out-dir")
        .arg(folder.join("proto"))
        .args([&portal.address, "describe", "google.rpc.BadRequest"]))
}

/// Makes the client's code of the .proto files.
fn generate(packages: &Path, folder: &Path) -> Result<()> {
    let gen_es = packages.join(".bin/protoc-gen-es");
    std::fs::create_dir(folder.join("gen"))?;
    let ours = PROTOS.map(|name| format!("slicewire/hub/v1alpha1/{name}.proto"));
    run(Command::new(tool("SLICEWIRE_PYTHON")?)
        .args(["-m", "grpc_tools.protoc", "-I", &format!("{ROOT}/proto/rpc/proto"), "-I"])
        .arg(folder.join("proto"))
        .arg(option("--plugin=protoc-gen-es=", &gen_es))
        .arg(option("--es_out=", &folder.join("gen")))
        .args(["--es_opt=target=ts,import_extension=none", "error_details.proto"])
        .args(ours))
}

fn option(name: &str, path: &Path) -> std::ffi::OsString {
    [OsStr::new(name), path.as_os_str()].into_iter().collect()
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    let program = command.get_program().display();
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&said));
    Ok(())
}
