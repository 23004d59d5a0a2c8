#!/usr/bin/env bash
# A real SLURM cluster for the tests, on one Debian or Ubuntu machine: root, no systemd needed,
# everything on the loopback address. Each node is a slurmd with its own host name.
#
#   cluster.sh install          apt-get install what is missing
#   cluster.sh start            start it (a second start changes nothing)
#   cluster.sh stop             end it and every job; undo what start did
#   cluster.sh status           its processes and its partitions
#   cluster.sh conf             print the slurm.conf of these settings
#   cluster.sh reconfigure [NAME=VALUE ...]   give the running cluster these settings, also from
#                               the environment; those not named are start's
#   cluster.sh node-kill N      node N loses power: its slurmd and all processes of its jobs end
#   cluster.sh node-start N     node N comes back
#   cluster.sh slurmd-kill N    node N's slurmd ends; its jobs live on, until it comes back
#   cluster.sh slurmctld-stop   the controller ends; jobs live on
#   cluster.sh slurmctld-start  it comes back
#
# Settings, from the environment:
#   CLUSTER=1                   which one, of several independent ones; all but the
#                               first need SLURM_CONF=/var/lib/pattlite-test-N/slurm.conf as well
#   NODES=2 CPUS=4 GPUS=2       nodes n1, n2, …; CPUs and fake GPUs of each (start only)
#   ACCT=slurmdbd|none          with a database and sacct, or without
#   GRACE=15                    seconds between the preemption of a job and its end
#   KILLWAIT=10                 seconds between SIGTERM and SIGKILL
#   NODE_TIMEOUT=10             seconds until a silent node counts as lost
#   JOB_AGE=3600                seconds that a job is remembered after its end without sacct
#   MAX_ARRAY=5                 the indices of an array are below it
#   CTLPARAMS=                  preempt_send_user_signal: preemption sends --signal, not SIGTERM
set -u
PATH=/usr/sbin:/sbin:/usr/bin:/bin:$PATH
CLUSTER=${CLUSTER:-1}
NAME=pattlite-test
((CLUSTER == 1)) || NAME=$NAME-$CLUSTER
D=/var/lib/$NAME # only root can write there; /tmp would let anybody prepare it
HOST=$(uname -n)
HOST=${HOST%%.*}
CTLD_PORT=$((16807 + 10 * CLUSTER)) DBD_PORT=$((16809 + 10 * CLUSTER))
NODE_PORT=$((16900 + 100 * CLUSTER))

# The daemons outlive the caller and must not keep open its files, such as a lock.
for fd in /proc/$$/fd/*; do
  fd=${fd##*/}
  ((fd < 3 || fd == 255)) || eval "exec $fd>&-" # 255 is this script
done

# shellcheck disable=SC1091
[ -r "$D/settings" ] && . "$D/settings"
: "${NODES=2}" "${CPUS=4}" "${GPUS=2}" "${ACCT=slurmdbd}" "${GRACE=15}" "${KILLWAIT=10}"
: "${NODE_TIMEOUT=10}" "${JOB_AGE=3600}" "${MAX_ARRAY=5}" "${CTLPARAMS=}"
SETTINGS="NODES CPUS GPUS ACCT GRACE KILLWAIT NODE_TIMEOUT JOB_AGE MAX_ARRAY CTLPARAMS"
export SLURM_CONF=$D/slurm.conf

say() { echo "cluster.sh: $*"; }
die() {
  say "$*" >&2
  exit 1
}

# until_true SECONDS COMMAND...
until_true() {
  local end=$((SECONDS + $1))
  shift
  while ! "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return
    sleep 0.1
  done
}

# alive DAEMON: its pid, if the process in its pid file is that program
alive() {
  local pid
  pid=$(cat "$D/$1.pid" 2>/dev/null) && [ -n "$pid" ] &&
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "${1%%.*}" ]] &&
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null && echo "$pid"
}

dead() { ! alive "$1"; }

end() {
  local pid
  pid=$(alive "$1") || return 0
  kill "$pid"
  until_true "${2:-10}" dead "$1" || kill -9 "$pid"
}

conf() {
  local i
  cat <<END
ClusterName=$NAME
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$CTLD_PORT
# listen on the loopback address only
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is how long a requeued job waits before it may start again (usually 120 s)
AuthInfo=socket=$D/munge.socket,cred_expire=5
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool.%n
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.%n.pid
SlurmctldLogFile=$D/slurmctld.log
SlurmdLogFile=$D/slurmd.%n.log
# no control groups, no binding: the CPUs are not real
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
# react within a second
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PriorityType=priority/basic
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
JobRequeue=1
InactiveLimit=0
KillWait=$KILLWAIT
SlurmdTimeout=$NODE_TIMEOUT
# Also how long a refused connection is retried, and so until a lost node is noticed; and half of
# the time in which a step must have begun, or srun has SLURM kill it, also on a busy machine.
MessageTimeout=12
MinJobAge=$JOB_AGE
MaxArraySize=$MAX_ARRAY
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
END
  [ -z "$CTLPARAMS" ] || echo "SlurmctldParameters=$CTLPARAMS"
  if [ "$ACCT" = slurmdbd ]; then
    cat <<END
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
AccountingStoragePass=$D/munge.socket
AccountingStorageTRES=gres/gpu
END
  else
    echo "AccountingStorageType=accounting_storage/none"
  fi
  # One address for all nodes: with one each, an srun inside a job waits forever for an answer.
  for ((i = 1; i <= NODES; i++)); do
    echo "NodeName=n$i NodeHostName=n$i NodeAddr=127.0.0.1 Port=$((NODE_PORT + i))" \
      "CPUs=$CPUS RealMemory=8000 Gres=gpu:$GPUS State=UNKNOWN"
  done
  cat <<END
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=preempt PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
END
}

install() {
  local package output missing=()
  for package in slurm-wlm munge slurmdbd mariadb-server charliecloud-runtime; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
      missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || die "no apt-get; install ${missing[*]} by hand"
  output=$({ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"; } </dev/null 2>&1) || {
    printf '%s\n' "$output" >&2
    die "apt-get could not install ${missing[*]}"
  }
  say "installed ${missing[*]}"
}

start_munge() { # with its own key and socket, besides those that the machine may have
  dd if=/dev/urandom of="$D/munge.key" bs=128 count=1 status=none
  chmod 600 "$D/munge.key"
  munged --key-file="$D/munge.key" --socket="$D/munge.socket" --pid-file="$D/munged.pid" \
    --seed-file="$D/munge.seed" --log-file="$D/munged.log" ||
    die "munged did not start; see $D/munged.log"
}

start_database() {
  local client=(--no-defaults "--socket=$D/mysql.socket")
  mariadb-install-db --no-defaults --datadir="$D/mysql" --user=root --skip-test-db \
    --auth-root-authentication-method=socket >"$D/mariadb-install.log" 2>&1 ||
    die "mariadb-install-db failed; see $D/mariadb-install.log"
  setsid mariadbd --no-defaults --user=root --datadir="$D/mysql" --socket="$D/mysql.socket" \
    --pid-file="$D/mariadbd.pid" --log-error="$D/mariadbd.log" --skip-networking \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=8M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 </dev/null >/dev/null 2>&1 &
  until_true 30 mariadb-admin "${client[@]}" ping || die "mariadbd is silent; see $D/mariadbd.log"
  (umask 077 && cat >"$D/slurmdbd.conf") <<END
AuthType=auth/munge
AuthInfo=socket=$D/munge.socket
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$DBD_PORT
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$D/slurmdbd.pid
LogFile=$D/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
END
  MYSQL_UNIX_PORT=$D/mysql.socket slurmdbd || die "slurmdbd did not start; see $D/slurmdbd.log"
  until_true 30 sacctmgr -n list cluster || die "slurmdbd is silent; see $D/slurmdbd.log"
  sacctmgr -iQ add cluster "$NAME" >/dev/null || die "sacctmgr failed; see $D/slurmdbd.log"
}

# A node's namespace holds its host name and every process of its jobs. It is mounted, so that
# it outlives the node's processes and its number is not reused.
make_node() {
  mkdir -p "$D/spool.n$1"
  touch "$D/n$1.uts"
  unshare --uts="$D/n$1.uts" hostname "n$1"
}

node_processes() {
  local number
  number=$(stat -c %i "$D/n$1.uts") && mountpoint -q "$D/n$1.uts" &&
    find /proc/[0-9]*/ns/uts -maxdepth 0 -lname "uts:\[$number\]" 2>/dev/null | cut -d/ -f3
}

end_node() { # repeatedly, as a process may start another meanwhile
  local pids
  while pids=$(node_processes "$1") && [ -n "$pids" ]; do
    # shellcheck disable=SC2086
    kill -9 $pids 2>/dev/null
    sleep 0.05
  done
  rm -f "$D/slurmd.n$1.pid"
}

start_node() {
  alive "slurmd.n$1" >/dev/null || nsenter --uts="$D/n$1.uts" slurmd -N "n$1" -f "$SLURM_CONF" ||
    die "slurmd of n$1 did not start; see $D/slurmd.n$1.log"
}

# registered N: up, unless its slurmd does not run
registered() { ! alive "slurmd.n$1" >/dev/null || node_up "$1"; }

node_up() { sinfo -h -N -n "n$1" -o %t | grep -qE '^(idle|mix|alloc|comp|plnd)-?$'; }

each_node() {
  local i
  for ((i = 1; i <= NODES; i++)); do "$@" "$i" || return; done
}

start_controller() {
  slurmctld -f "$SLURM_CONF" || die "slurmctld did not start; see $D/slurmctld.log"
}

running() { alive slurmctld >/dev/null; }

start() {
  local program link others began=$EPOCHREALTIME i
  for program in munged slurmctld slurmd slurmdbd mariadbd; do
    command -v $program >/dev/null || die "$program is missing; run '$0 install' first"
  done
  running && each_node node_up && {
    say "already running"
    return
  }
  for link in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
    ((CLUSTER == 1)) || break
    [ ! -e $link ] || [[ $(readlink $link) == "$D"/* ]] ||
      die "$link is another cluster's; the test cluster requires a machine without one"
  done
  stop quietly # what a killed one left
  unshare --uts true 2>/dev/null ||
    die "'unshare --uts' is refused here; a container requires --cap-add SYS_ADMIN"
  mkdir -p "$D/state" /etc/slurm && chmod 755 "$D" || exit
  rm -f "$D"/*.log
  for i in $SETTINGS; do printf '[ -v %s ] || %s=%q\n' "$i" "$i" "${!i}"; done >"$D/settings"
  for ((i = 0; i < GPUS; i++)); do ln -s /dev/null "$D/nvidia$i"; done
  printf 'AutoDetect=off\nNodeName=n[1-%d] Name=gpu Count=%d File=%s/nvidia[0-%d]\n' \
    "$NODES" "$GPUS" "$D" $((GPUS - 1)) >"$D/gres.conf"
  # slurmd loads it, though nothing here uses it; the other one fails in many containers
  echo "CgroupPlugin=cgroup/v1" >"$D/cgroup.conf"
  conf >"$SLURM_CONF"
  # so that nobody has to set SLURM_CONF
  ((CLUSTER > 1)) || ln -sfn "$D/slurm.conf" "$D/gres.conf" /etc/slurm/
  # Addresses for the names of the nodes and of this machine, on which the daemons listen: before
  # an existing one, because Debian's 127.0.1.1 does not work.
  others=$(cat /etc/hosts)
  {
    echo "127.0.0.1 $HOST # $NAME"
    for ((i = 1; i <= NODES; i++)); do echo "127.0.0.1 n$i # $NAME"; done
    printf '%s\n' "$others"
  } >/etc/hosts
  start_munge
  [ "$ACCT" = none ] || start_database
  start_controller
  each_node make_node && each_node start_node || exit
  until_true 30 each_node node_up || die "not every node came up; see $D/*.log"
  say "$NODES nodes up after $(awk "BEGIN {printf \"%.1f\", $EPOCHREALTIME - $began}") s," \
    "accounting $ACCT; '$0 stop' ends it"
}

stop() {
  local file others
  running && timeout 10 scancel --user=root 2>/dev/null
  for file in "$D"/n*.uts; do
    [ -e "$file" ] || continue
    file=${file#"$D"/n}
    end_node "${file%.uts}"
    umount "$D/n$file" 2>/dev/null
  done
  end slurmctld 20
  end slurmdbd 20
  end mariadbd 20
  end munged
  for file in slurm.conf gres.conf; do
    [ "$(readlink "/etc/slurm/$file")" != "$D/$file" ] || rm "/etc/slurm/$file"
  done
  if grep -q "# $NAME\$" /etc/hosts; then # written in place: containers mount the file
    others=$(grep -v "# $NAME\$" /etc/hosts)
    printf '%s\n' "$others" >/etc/hosts
  fi
  [ ! -d "$D" ] || find "$D" -mindepth 1 -maxdepth 1 ! -name '*.log' -exec rm -rf {} +
  [ "${1:-}" = quietly ] || say "stopped; its logs are in $D"
}

status() {
  local daemon pid code=0 daemons=(munged slurmctld)
  [ "$ACCT" = none ] || daemons+=(mariadbd slurmdbd)
  for ((i = 1; i <= NODES; i++)); do daemons+=("slurmd.n$i"); done
  for daemon in "${daemons[@]}"; do
    pid=$(alive "$daemon") || code=1
    printf '%-10s %s\n' "$daemon" "${pid:-down}"
  done
  ! running || sinfo -o '%P %a %l %D %T %N %c %G'
  return $code
}

reconfigure() {
  local before setting
  running || die "the cluster is not running; start it with '$0 start'"
  for setting in "$@"; do
    [[ $setting == *=* && " $SETTINGS " == *" ${setting%%=*} "* ]] ||
      die "no setting $setting; NAME=VALUE with a name of: $SETTINGS"
    printf -v "${setting%%=*}" %s "${setting#*=}"
  done
  # slurmctld compares times in seconds to learn whether what it derived from settings is old.
  while [ "$(date +%s)" = "$(stat -c %Y "$D/reconfigured" 2>/dev/null)" ]; do sleep 0.1; done
  before=$(grep '^AccountingStorageType' "$SLURM_CONF")
  conf >"$SLURM_CONF.new" && mv "$SLURM_CONF.new" "$SLURM_CONF"
  if [ "$before" = "$(grep '^AccountingStorageType' "$SLURM_CONF")" ]; then
    scontrol reconfigure || die "scontrol reconfigure failed; see $D/slurmctld.log"
  else # jobs outlive slurmctld, but it changes the accounting only when it starts
    end slurmctld 20
    start_controller
  fi
  touch "$D/reconfigured"
  until_true 30 scontrol ping && until_true 30 each_node registered ||
    die "slurmctld or a node is silent; see $D/*.log"
}

case "${1:-}" in
  install | start | stop | reconfigure | slurmctld-*) [ "$(id -u)" = 0 ] || die "$1 must be run as root" ;;
  node-kill | node-start | slurmd-kill)
    [ "$(id -u)" = 0 ] || die "$1 must be run as root"
    [ -e "$D/n${2:-}.uts" ] || die "$1 requires the number of a node of the running cluster"
    ;;
  status | conf) ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
case $1 in
  node-kill) end_node "$2" ;;
  slurmd-kill) kill -9 "$(alive "slurmd.n$2")" ;;
  slurmctld-stop) end slurmctld 20 ;;
  slurmctld-start) start_controller ;;
  node-start)
    start_node "$2"
    # one that was drained does not come back by itself
    until_true 5 node_up "$2" || scontrol update "NodeName=n$2" State=RESUME
    until_true 30 node_up "$2" || die "n$2 did not come up; see $D/slurmd.n$2.log"
    ;;
  *) "$@" ;;
esac
