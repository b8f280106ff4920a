//! Four replicas of a register, agreeing by PBFT, in one program.

use atlas_smr::prelude::*;

#[derive(Clone)]
struct Register;

impl ApplicationData for Register {
    type Request = Option<String>; // a new value, or none to read
    type Reply = String;
}

impl Application for Register {
    type State = String;

    fn initial_state(&self) -> String {
        "nothing yet".to_owned()
    }

    fn update(&self, state: &mut String, new: Option<String>, _: &mut ExecutionContext) -> String {
        match new {
            Some(new) => std::mem::replace(state, new),
            None => state.clone(),
        }
    }

    fn read(&self, state: &String, _: Option<String>) -> String {
        state.clone()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = LocalCluster::start(Register, LocalClusterOptions::default()).await?;
    let register = cluster.client();
    assert_eq!(
        register.call(&Some("hello".to_owned())).await?,
        "nothing yet"
    );
    assert_eq!(
        register.read(&None, Consistency::Linearizable).await?,
        "hello"
    );
    cluster.shutdown().await;
    Ok(())
}
