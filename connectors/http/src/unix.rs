//! The Unix socket: the same API for the commands of whoever owns the data directory.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rowcast_engine::{Error, Result};
use tokio::net::{UnixListener, UnixStream};

/// The bound socket.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    /// Takes connections.
    pub(crate) listener: UnixListener,
    /// To be kept as long as it does.
    pub(crate) file: SocketFile,
}

/// The socket's file, removed with this.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl AdminSocket {
    /// Binds a path for its owner alone. What a dead process left there is replaced. None where the disk is full: readers
    /// are served without it.
    pub(crate) async fn bind(path: PathBuf) -> Result<Option<Self>> {
        Self::bind_with(path, place).await
    }

    async fn bind_with(
        path: PathBuf,
        place: impl Fn(&Path, &Path) -> std::io::Result<UnixListener>,
    ) -> Result<Option<Self>> {
        if UnixStream::connect(&path).await.is_ok() {
            return Err(Error::failed(format!("Another process answers on {}", path.display()))
                .hint("Stop it, or give this one a data directory of its own with --data."));
        }
        // Made beside and moved, so that nobody can connect before the mode is right.
        let beside = path.with_extension("new");
        match place(&beside, &path) {
            Ok(listener) => Ok(Some(Self { listener, file: SocketFile(path) })),
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                tracing::warn!(
                    %error,
                    hint = "Make room on the file system of the data directory, and restart rowcast. Until then commands \
                            find it by --url, and what only its own user may do (rowcast sink, snapshot, adopt) is not taken",
                    "Cannot make the Unix socket {}",
                    path.display()
                );
                // What a dead process left there would be taken for this one, by whoever wants to command it.
                let _ = fs::remove_file(&path);
                Ok(None)
            }
            Err(error) => Err(cannot(&path, error)),
        }
    }
}

fn place(beside: &Path, path: &Path) -> std::io::Result<UnixListener> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(beside)?;
    fs::set_permissions(beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(beside, path)?;
    Ok(listener)
}

fn cannot(path: &Path, error: std::io::Error) -> Error {
    let refused = Error::failed(format!("Cannot make the Unix socket {}", path.display())).because(error);
    // The system's limit, with the ending of the file made beside it.
    if path.as_os_str().len() > 100 {
        return refused
            .hint("The path is too long for a Unix socket: use a data directory with a shorter one.");
    }
    refused.hint("The user who runs rowcast has to be able to make files in the data directory.")
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that stays is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_does_not_keep_readers_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        for full in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            fs::write(&path, "").unwrap();
            let bound = AdminSocket::bind_with(path.clone(), |_, _| Err(full.into())).await;
            assert!(bound.unwrap().is_none() && !path.exists(), "{full}");
        }
        let denied = |_: &Path, _: &Path| Err(ErrorKind::PermissionDenied.into());
        assert!(AdminSocket::bind_with(path.clone(), denied).await.is_err());
        assert!(AdminSocket::bind(path).await.unwrap().is_some());
    }
}
