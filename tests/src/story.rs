//! Running stories in order and telling how they went.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use crate::world::World;

/// One story: a name and what is done and asserted.
pub struct Story {
    /// Its name, for choosing it on the command line.
    pub name: &'static str,
    /// What it does; the text tells what was seen.
    pub tell: fn(&mut World) -> anyhow::Result<String>,
}

/// Runs the stories whose names contain any of `chosen` (all when empty) and prints a line each.
///
/// The exit code is a failure when any story failed, and also when none ran.
pub fn run(world: &mut World, stories: &[Story], chosen: &[String]) -> ExitCode {
    let wanted =
        |s: &&Story| chosen.is_empty() || chosen.iter().any(|c| s.name.contains(c.as_str()));
    let (mut passed, mut failed) = (0u32, Vec::new());
    for story in stories.iter().filter(wanted) {
        say(&format!("story {} ...", story.name));
        let begun = Instant::now();
        let told = (story.tell)(world);
        let seconds = begun.elapsed().as_secs_f64();
        match told {
            Ok(seen) => {
                passed += 1;
                say(&format!("story {} ok ({seconds:.1} s): {seen}", story.name));
            }
            Err(error) => {
                say(&format!("story {} FAILED ({seconds:.1} s): {error:?}", story.name));
                say(&world.diagnosis());
                failed.push(format!("{} FAILED: {}", story.name, brief(&error)));
                world.tidy();
            }
        }
    }
    for line in &failed {
        say(line);
    }
    say(&format!("{passed} passed, {} failed", failed.len()));
    if failed.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An error on one line, for the list at the end: its causes, each cut short.
fn brief(error: &anyhow::Error) -> String {
    let cut = |cause: String| cause.replace('\n', " ").chars().take(400).collect::<String>();
    error.chain().map(|cause| cut(cause.to_string())).collect::<Vec<_>>().join(": ")
}

/// Prints a line at once; without standard output there is nobody to tell.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
