//! Statements that a session has the server parse once. Planning what the catalog is asked takes longer than the answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement, Transaction};

/// Those of one session, which must not be another one's. There are as many as the catalog is asked in this directory: a
/// handful.
#[derive(Debug, Default)]
pub(crate) struct Statements(Mutex<HashMap<String, Statement>>);

impl Statements {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Statement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction in which the catalog is asked, and the statements of its session.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) transaction: &'a Transaction<'a>,
    pub(crate) statements: &'a Statements,
}

type Params<'a> = [&'a (dyn ToSql + Sync)];

impl Asked<'_> {
    async fn statement(&self, sql: &str) -> Result<Statement, Error> {
        let known = self.statements.known().get(sql).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let statement = self.transaction.prepare(sql).await?;
        self.statements.known().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(&self, sql: &str, params: &Params<'_>) -> Result<Vec<Row>, Error> {
        self.transaction.query(&self.statement(sql).await?, params).await
    }

    pub(super) async fn query_one(&self, sql: &str, params: &Params<'_>) -> Result<Row, Error> {
        self.transaction.query_one(&self.statement(sql).await?, params).await
    }

    pub(super) async fn query_opt(&self, sql: &str, params: &Params<'_>) -> Result<Option<Row>, Error> {
        self.transaction.query_opt(&self.statement(sql).await?, params).await
    }
}
