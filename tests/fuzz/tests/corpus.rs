//! Replays every input the fuzzers have found worth keeping.

use std::path::Path;

#[test]
fn every_kept_input_is_survived() {
    for (name, target) in slicewire_fuzz::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            target(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}
