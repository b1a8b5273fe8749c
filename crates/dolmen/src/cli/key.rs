//! `dolmen key ...`: the cluster key. Export and import work on the files of this machine, whether or not a daemon runs; the key
//! itself never goes through the API.

use super::{
    args::{Global, KeyCommand},
    client::Client,
    error::{CliError, Exit},
    output::{Output, pairs, say, text},
};
use dolmen_security::{
    ClusterKey, Imported, KeyFiles, Secret,
    file::{self, Visibility},
    read_passphrase,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Longest file that is looked at for a key. Bytes.
const MAX_KEY_BYTES: u64 = 4096;

/// The verbs that a daemon answers.
pub(crate) fn remote(client: &Client, output: &Output, command: &KeyCommand) -> Result<(), CliError> {
    let answer = match command {
        KeyCommand::Rotate => client.post("/dolmen/v1/key/rotate", &json!({}))?,
        _ => client.get("/dolmen/v1/key")?,
    };
    output.put(&answer, |key| pairs(&rows(key)))?;
    if matches!(command, KeyCommand::Rotate) {
        output.remark(match text(&answer, "source").as_str() {
            "passphrase" => "The old passphrase opens nothing any more.",
            _ => "Copies of the old key open nothing any more: export this one.",
        });
    }
    Ok(())
}

fn rows(key: &Value) -> Vec<(&'static str, String)> {
    let place = text(key, "path");
    let source = match text(key, "source").as_str() {
        "file" => format!("in {place}"),
        "passphrase" => format!("follows from the passphrase in {place}"),
        _ => "given".into(),
    };
    vec![
        ("Cluster key", text(key, "id")),
        ("Kept", source),
        ("Data keys", text(key, "dataKeys")),
        ("Under an older key", text(key, "staleDataKeys")),
    ]
}

/// The verbs that need no daemon.
pub(crate) fn local(global: &Global, output: &Output, command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::Export { passphrase_file, to, cluster_key } => {
            let files = key_files(global, cluster_key.as_deref())?;
            export(output, &files, passphrase_file.as_deref(), to.as_deref())
        }
        KeyCommand::Import { file, passphrase_file, cluster_key } => {
            let files = key_files(global, cluster_key.as_deref())?;
            import(output, &files, &file, passphrase_file.as_deref())
        }
        KeyCommand::Show | KeyCommand::Rotate => Ok(()),
    }
}

fn key_files(global: &Global, cluster_key: Option<&Path>) -> Result<KeyFiles, CliError> {
    match (cluster_key, &global.data) {
        (Some(path), _) => Ok(KeyFiles::at(path)),
        (None, Some(data)) => Ok(KeyFiles::of_folder(data)),
        (None, None) => Err(CliError::usage("which node's key? None was named").hint(
            "give --data DIR, the node's data folder on this machine; the key does not go through the API",
        )),
    }
}

fn passphrase(path: Option<&Path>) -> Result<Option<Secret>, CliError> {
    path.map(read_passphrase).transpose().map_err(failed)
}

fn failed(why: dolmen_security::Error) -> CliError {
    CliError::new(Exit::Failed, why.to_string())
}

fn export(
    output: &Output,
    files: &KeyFiles,
    passphrase_file: Option<&Path>,
    to: Option<&Path>,
) -> Result<(), CliError> {
    let known = files.load().map_err(failed)?;
    if known.next.is_some() {
        return Err(CliError::new(Exit::TryAgain, "a rotation of the cluster key has not ended")
            .hint("let the node end it: start it, or ask again in a moment"));
    }
    let Some(key) = known.current else {
        let text = format!("there is no cluster key in {}", files.path().display());
        return Err(CliError::new(Exit::NotFound, text)
            .hint("serve makes one at its first start; one that follows from a passphrase is in no file"));
    };
    let sealed = match passphrase(passphrase_file)? {
        Some(phrase) => key.export_sealed(&phrase).map_err(failed)?,
        None => {
            eprintln!(
                "warning: this is the key itself, not sealed: whoever sees it can read every encrypted volume of the pool's \
                 drives. --passphrase-file seals it."
            );
            key.export()
        }
    };
    let Some(path) = to else { return say(sealed.expose()) };
    spare(path, files.path(), &key)?;
    file::replace(path, sealed.expose(), Visibility::Owner).map_err(failed)?;
    put_place(output, &key, path)
}

/// Refuses to write over anything but an older copy of the same key: the file may be the only place where another one is.
fn spare(path: &Path, in_force: &Path, key: &ClusterKey) -> Result<(), CliError> {
    let shown = path.display();
    let there = match std::fs::metadata(path) {
        Ok(there) => there,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(CliError::new(Exit::Failed, format!("{shown}: {why}"))),
    };
    let refused = |what: String| {
        let text = format!("{shown} is there already and {what}; it was left as it is");
        Err(CliError::new(Exit::Conflict, text)
            .hint("name a file that is not there yet, or move this one away"))
    };
    if !there.is_file() {
        return refused("is no file".into());
    }
    let same = |own: std::fs::Metadata| (own.dev(), own.ino()) == (there.dev(), there.ino());
    if std::fs::metadata(in_force).is_ok_and(same) {
        return refused("is where the node keeps its key".into());
    }
    let text = File::open(path)
        .and_then(start_of)
        .map_err(|why| CliError::new(Exit::Failed, format!("{shown}: {why}")))?;
    match ClusterKey::id_in(&text) {
        Some(id) if id == key.id() => Ok(()),
        Some(id) => refused(format!("holds another cluster key, {:032x}", u128::from_be_bytes(id))),
        None if text.expose().is_empty() => Ok(()),
        None => refused("holds something else".into()),
    }
}

/// Says where a key is now.
fn put_place(output: &Output, key: &ClusterKey, path: &Path) -> Result<(), CliError> {
    let place = path.display().to_string();
    let answer = json!({"id": key.to_string(), "path": place});
    output.put(&answer, |_| format!("cluster key {key} is in {place}"))
}

fn import(
    output: &Output,
    files: &KeyFiles,
    from: &Path,
    passphrase_file: Option<&Path>,
) -> Result<(), CliError> {
    let shown = from.display();
    let bytes = read(from).map_err(|why| CliError::new(Exit::Failed, format!("{shown}: {why}")))?;
    let key: ClusterKey = match ClusterKey::import(&bytes, passphrase(passphrase_file)?.as_ref()) {
        Imported::Key(key) => key,
        Imported::Sealed => {
            return Err(CliError::usage(format!("{shown} is sealed by a passphrase"))
                .hint("give --passphrase-file FILE"));
        }
        Imported::WrongPassphrase => {
            return Err(CliError::new(
                Exit::Failed,
                format!("{shown} is sealed by another passphrase, or damaged"),
            ));
        }
        Imported::Damaged => {
            return Err(CliError::new(
                Exit::Failed,
                format!("{shown} holds no cluster key, or a damaged one"),
            ));
        }
    };
    files.put(&key).map_err(failed)?;
    put_place(output, &key, files.path())
}

fn read(path: &Path) -> io::Result<Secret> {
    if path == Path::new("-") { start_of(io::stdin().lock()) } else { start_of(File::open(path)?) }
}

/// As much as a key takes.
fn start_of(from: impl Read) -> io::Result<Secret> {
    let mut bytes = Vec::new();
    from.take(MAX_KEY_BYTES).read_to_end(&mut bytes)?;
    Ok(Secret::new(bytes))
}
