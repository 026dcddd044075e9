#!/bin/sh
# Co-trains IEF on the community "Nobody Gets My Memes" with the published hyper-parameters:
#     DATA_PATH=/path/to/nobody_gets_my_memes sh co_train_nobody_gets_my_memes.sh [more flags, which override those below]
# scripts/launch.sh says what else can be set (GPUS, OUTPUT_DIR, several machines).
. "$(dirname "$0")/scripts/launch.sh"
launch --do_train --datatype nobody_gets_my_memes --data_path "$DATA_PATH" --output_dir "${OUTPUT_DIR:-runs/nobody_gets_my_memes}" \
  --pretrained_clip_name ViT-B/32 --max_words 32 --batch_size 128 --epochs 4 --lr 1e-4 "$@"
