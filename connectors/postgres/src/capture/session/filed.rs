//! Rows that a snapshot has read into a file: the file becomes a part of the journal between two transactions.

use rowcast_engine::Result;
use rowcast_engine::ingest::finish_spill;

use super::Session;
use crate::capture::emit::Ending;
use crate::capture::feedback::meanwhile;

impl Session {
    /// Whether that is due.
    pub(super) fn has_file_due(&self) -> bool {
        self.assembly.is_between() && self.emitter.has_file_due(self.assembly.passed)
    }

    /// What has committed before goes before it, what is taken in from now on behind it.
    pub(super) async fn finish_filed(&mut self) -> Result<()> {
        let Self { assembly, emitter, .. } = self;
        let passed = assembly.passed;
        let ending = emitter.end_file(passed, &mut assembly.snapshots, &mut assembly.builder)?;
        let Some(Ending { file, parts, at, notes, reader }) = ending else { return Ok(()) };
        self.hand_over_ready().await?;
        let ingest = &self.ingest;
        let finished = meanwhile(&mut self.stream, &mut self.feedback, async {
            let file = finish_spill(file, parts).await?;
            Ok((file, ingest.room().await?))
        });
        let (file, room) = finished.await?;
        let position = self.assembly.finished.max(self.submitted);
        room.adopt_rows(self.ingest.journal(), file, (position, at), &notes);
        self.note_submitted(position);
        reader.tell();
        Ok(())
    }
}
