# What the six co_train_<community>.sh share: checks, the environment, one process per GPU.
#
#   DATA_PATH=folder    train.csv, val.csv, test.csv and images/ (docs/DATA.md); needed
#   OUTPUT_DIR=folder   instead of runs/<community>
#   GPUS=n              instead of all GPUs of the machine
#   NNODES=n NODE_RANK=i MASTER_ADDR=host [MASTER_PORT=29500]
#                       several machines: start the script on each one, with NODE_RANK 0 (on host), 1, ... n-1;
#                       where they share this folder, run `sh scripts/set_up.sh` once before

absolute() {
  case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s' "$PWD/$1" ;;
  esac
}

# Paths in DATA_PATH and OUTPUT_DIR are those of the folder that the user is in; then go to the repository's.
DATA_PATH=${DATA_PATH:+$(absolute "$DATA_PATH")}
OUTPUT_DIR=${OUTPUT_DIR:+$(absolute "$OUTPUT_DIR")}
CDPATH="" cd "$(dirname "$0")" || exit
. scripts/set_up.sh

# check_files FLAGS: stop with all that is missing, before anything is installed or started
check_files() {
  problems=
  weights=
  for flag in "$@"; do
    case $flag in
      --init_model* | --resume_model*) weights=not_needed ;;
    esac
  done
  named_towers "$@"
  if [ -z "$DATA_PATH" ]; then
    problem "DATA_PATH is not set. It names the folder with train.csv, val.csv, test.csv and images/ (docs/DATA.md):" \
      "    DATA_PATH=/path/to/folder sh $0"
  elif [ ! -d "$DATA_PATH" ]; then
    problem "$DATA_PATH (DATA_PATH) is not a folder. It should hold train.csv, val.csv, test.csv and images/."
  else
    for split in train val test; do
      case " $* " in
        *" --${split}_csv"*) ;; # another file was named, which the program checks
        *) [ -f "$DATA_PATH/$split.csv" ] || problem "$DATA_PATH/$split.csv is missing (docs/DATA.md has its columns)." ;;
      esac
    done
  fi
  if [ "$towers" = ViT-B/32 ] && [ -z "$weights" ] && [ ! -f modules/ViT-B-32.pt ]; then
    find_python
    problem "$PWD/modules/ViT-B-32.pt is missing: OpenAI's weights of CLIP. Put the file there, or fetch it:" \
      "    cd '$PWD' && sh scripts/set_up.sh && $PYTHON -m preprocess.download clip"
  fi
  [ -z "$problems" ] || exit 1
}

problem() {
  printf '%s\n' "$@" >&2
  problems=yes
}

# launch FLAGS: main_task_retrieval.py with these flags, one process per GPU
launch() {
  check_files "$@"
  if [ "${NNODES:-1}" -gt 1 ]; then
    [ -n "${NODE_RANK:-}" ] && [ -n "${MASTER_ADDR:-}" ] ||
      stop "NNODES=$NNODES needs NODE_RANK (0 to $((NNODES - 1))) and MASTER_ADDR (the machine with NODE_RANK=0) too."
  fi
  case ${GPUS:-1} in
    0 | *[!0-9]*) stop "GPUS=$GPUS: a number of processes, at least 1, is needed." ;;
  esac
  set_up_for "$@"
  if [ -z "${GPUS:-}" ]; then
    GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())') || stop "torch does not work (above)."
    if [ "$GPUS" = 0 ]; then
      echo "no GPU was found: one process on the CPU"
      GPUS=1
    fi
  fi
  # torchrun hands these on to its processes, which then save and end (docs/TRAIN.md)
  export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2}"
  if [ "${NNODES:-1}" -gt 1 ]; then
    exec "$PYTHON" -m torch.distributed.run --nproc_per_node="$GPUS" --nnodes="$NNODES" --node_rank="$NODE_RANK" \
      --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}" main_task_retrieval.py "$@"
  elif [ "$GPUS" -gt 1 ]; then
    exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" main_task_retrieval.py "$@"
  else
    exec "$PYTHON" main_task_retrieval.py "$@"
  fi
}
