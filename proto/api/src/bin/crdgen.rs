//! Writes `deploy/crds/<role>/<plural>.yaml`; run with the target directory as its argument.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let dir = env::args().nth(1).map_or_else(|| PathBuf::from("deploy/crds"), PathBuf::from);
    for (role, crd) in slicewire_api::crds() {
        let folder = dir.join(role);
        fs::create_dir_all(&folder)?;
        let yaml = serde_yaml_ng::to_string(&crd).map_err(io::Error::other)?;
        fs::write(folder.join(format!("{}.yaml", crd.spec.names.plural)), yaml)?;
    }
    Ok(())
}
