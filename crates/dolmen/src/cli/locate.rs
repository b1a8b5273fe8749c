//! Who answers: the daemon of a data folder on this machine, or an endpoint elsewhere.

use super::{
    args::Global,
    error::{CliError, Exit},
};
use crate::control::{Endpoint, files};
use dolmen_security::Secret;
use hyper::Uri;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Longest token file that is read. Bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// A daemon's API and what is needed to talk to it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Host name or IP address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// The certificate that it must show.
    pub(crate) certificate: PathBuf,
    /// The token to send.
    pub(crate) token: Secret,
    /// The data folder, if that is how it was found.
    pub(crate) folder: Option<PathBuf>,
    /// How the user names it: what stands before the verb in commands that we suggest.
    pub(crate) invocation: String,
}

/// Finds the daemon that the global flags name.
pub(crate) fn target(global: &Global) -> Result<Target, CliError> {
    match (&global.endpoint, &global.data) {
        (Some(_), Some(_)) => Err(CliError::usage("--data and --endpoint are two ways to say the same; give one")),
        (Some(url), None) => remote(url, global),
        (None, Some(folder)) => {
            if global.token_file.is_some() || global.certificate.is_some() {
                return Err(CliError::usage(
                    "--token-file and --certificate go with --endpoint; with --data they are found in the folder",
                ));
            }
            local(folder)
        }
        (None, None) => Err(CliError::usage("which node? None was named").hint(
            "give --data DIR (the data folder of a node on this machine), or --endpoint https://HOST:PORT with \
             --token-file FILE",
        )),
    }
}

fn local(folder: &Path) -> Result<Target, CliError> {
    let shown = quoted(folder);
    if !folder.is_dir() {
        return Err(CliError::new(Exit::Unreachable, format!("there is no data folder {shown}")).hint(
            format!("start a node with 'dolmen serve --data {shown} --drive ...', or name its folder"),
        ));
    }
    let Some(endpoint) = Endpoint::read(folder) else { return Err(no_endpoint(folder)) };
    Ok(Target {
        host: endpoint.api.ip().to_string(),
        port: endpoint.api.port(),
        certificate: folder.join(files::CERTIFICATE),
        token: read_token(&folder.join(files::TOKEN))?,
        folder: Some(folder.into()),
        invocation: format!("dolmen --data {}", quoted(folder)),
    })
}

/// Why a folder has no endpoint, and what to do.
fn no_endpoint(folder: &Path) -> CliError {
    let shown = quoted(folder);
    let read = fs::read(folder.join(files::ENDPOINT));
    if read.is_err_and(|why| why.kind() == io::ErrorKind::PermissionDenied) {
        return CliError::new(Exit::NotPermitted, format!("the data folder {shown} can't be read"))
            .hint("run this command as the user that runs the daemon, or as root");
    }
    let alive = |pid: &u32| Path::new("/proc").join(pid.to_string()).exists();
    if let Some(pid) = dolmen_cluster::lock::holder(folder).filter(alive) {
        return CliError::new(
            Exit::TryAgain,
            format!("the node of {shown} is starting or stopping (process {pid})"),
        )
        .hint("try again in a moment; the daemon's log says how far it is");
    }
    if folder.join(files::STATE).exists() {
        CliError::new(Exit::Unreachable, format!("the node of {shown} is not running"))
            .hint(format!("start it: dolmen serve --data {shown} --drive ..."))
    } else {
        CliError::new(Exit::Unreachable, format!("{shown} is not the data folder of a node"))
            .hint("name the folder that was given to 'dolmen serve --data'")
    }
}

fn remote(url: &str, global: &Global) -> Result<Target, CliError> {
    let wrong = || CliError::usage(format!("--endpoint '{url}': write https://HOST:PORT"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let plain = uri.path_and_query().is_none_or(|rest| rest.as_str() == "/");
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    // A port that is no port (https://host:x) parses as a URL without one.
    let port = uri.port_u16();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.scheme_str() != Some("https") || !plain || (port.is_none() && authority != host) {
        return Err(wrong());
    }
    let token_file = global.token_file.as_ref().ok_or_else(|| {
        CliError::usage("--endpoint needs --token-file")
            .hint("the node keeps its administrator's token in DIR/token; copy that file")
    })?;
    let token = read_token(token_file)?;
    let certificate = match &global.certificate {
        Some(path) => path.clone(),
        None => token_file.with_file_name(files::CERTIFICATE),
    };
    if !certificate.is_file() {
        return Err(CliError::usage(format!("there is no certificate {}", certificate.display())).hint(
            "copy DIR/tls.crt of the node beside the token file, or name the copy with --certificate FILE",
        ));
    }
    let mut invocation = format!("dolmen --endpoint {url} --token-file {}", quoted(token_file));
    if let Some(named) = &global.certificate {
        invocation += &format!(" --certificate {}", quoted(named));
    }
    Ok(Target {
        host: host.trim_start_matches('[').trim_end_matches(']').into(),
        port: port.unwrap_or(443),
        certificate,
        token,
        folder: None,
        invocation,
    })
}

/// A path as a shell wants it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn read_token(path: &Path) -> Result<Secret, CliError> {
    let fail = |why: io::Error| {
        let error =
            CliError::new(Exit::NotPermitted, format!("the token {} can't be read: {why}", path.display()));
        match why.kind() {
            io::ErrorKind::PermissionDenied => {
                error.hint("run this command as the user that runs the daemon, or as root")
            }
            _ => error,
        }
    };
    let len = fs::metadata(path).map_err(fail)?.len();
    if len > MAX_TOKEN_BYTES {
        return Err(CliError::new(Exit::NotPermitted, format!("{} is not a token", path.display())));
    }
    let text = fs::read_to_string(path).map_err(fail)?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CliError::new(Exit::NotPermitted, format!("{} holds no token", path.display())));
    }
    Ok(Secret::new(token.as_bytes().to_vec()))
}
