"""Where secrets are read from: one module for each kind of reference, and the keeper that remembers what was read.

    env:NAME                                        this process's environment
    file:PATH                                       a file that others cannot read
    vault:MOUNT/PATH#FIELD                          Vault or OpenBao, KV version 2   (gemstead[vault])
    aws-sm:NAME-OR-ARN[#FIELD]                      AWS Secrets Manager              (gemstead[aws])
    gcp-sm:projects/P/secrets/NAME[/versions/V][#FIELD]   Google Secret Manager      (gemstead[gcp])
    k8s:[NAMESPACE/]NAME#KEY                        a Secret of Kubernetes

Nothing here decides what a secret is for. Values leave `keeper.py` only as the answer to a question for that one
reference; no repr, error or log line holds one.
"""
