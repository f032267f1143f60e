#!/bin/sh
# A SLURM of one machine, for trying mp.dask.cluster=slurm:
#     sh tests/one_machine_slurm.sh start FOLDER && export SLURM_CONF=FOLDER/slurm.conf
#     sh tests/one_machine_slurm.sh stop FOLDER
# Needs root, and on Debian: apt-get install slurm-wlm munge. All it writes is in FOLDER; it leaves /etc alone.
set -eu
action=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)

stop() {
    for name in slurmd slurmctld munged; do
        if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
        rm -f "$folder/$name.pid"
    done
}

if [ "$action" = stop ]; then stop; exit 0; fi

cpus=$(nproc)
mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
# munged insists on folders that only its user can change, so it gets one of its own.
chmod 0711 "$folder/munge"
dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 2>/dev/null
chmod 0400 "$folder/munge/key"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

cat >"$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No cgroups: they are not to be had in many containers.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
export SLURM_CONF="$folder/slurm.conf"
slurmctld
slurmd
for attempt in $(seq 30); do
    if sinfo --noheader --format=%t 2>/dev/null | grep -q idle; then exit 0; fi
    sleep 1
done
tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
stop
exit 1
